// One step for a few rows. It reads every weight once, so it is as fast as memory delivers them: they lie in the order
// in which they are read, narrow storage is widened in registers, and the hidden units are cut over the threads, which
// meet after each layer.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/math.h"
#include "cpu/kernels/parallel.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int kStepLanes = kLanes<float>;
constexpr int64_t kAhead = 4096;  // bytes to fetch ahead: memory takes longer than the prefetcher looks

WORDKILN_INLINE Vec<float> widened(const float* from) { return load(from); }

WORDKILN_INLINE Vec<float> widened(const Bfloat16* from) { return load(from); }

WORDKILN_INLINE Vec<float> widened(const int8_t* from) { return __builtin_convertvector(load_bytes(from), Vec<float>); }

inline void narrow_to(float x, float, float* to) { *to = x; }

inline void narrow_to(float x, float, Bfloat16* to) { store(to, broadcast(x), 1); }

inline void narrow_to(float x, float scale, int8_t* to) {
  *to = static_cast<int8_t>(scale > 0 ? __builtin_rintf(x / scale) : 0.0f);
}

// The scale by which the row's largest weight becomes 127.
inline float scale_of(const float* row, int64_t columns) {
  float largest = 0;
  for (int64_t k = 0; k < columns; ++k) largest = __builtin_fabsf(row[k]) > largest ? __builtin_fabsf(row[k]) : largest;
  return largest / 127;
}

template <typename S>
void pack(const StepLayer& layer, const RecurrentWeights& from) {
  const int64_t gates = gates_count(layer.kind), width = gates * kStepLanes, depth = layer.inputs + layer.hidden;
  S* weights = static_cast<S*>(layer.weights);
  for (int64_t block = 0; block < layer.blocks; ++block) {
    for (int64_t lane = 0; lane < kStepLanes; ++lane) {
      const int64_t unit = block * kStepLanes + lane;
      for (int64_t g = 0; g < gates; ++g) {
        const int64_t row = g * layer.hidden + unit, column = g * kStepLanes + lane;
        const bool exists = unit < layer.hidden, stands_apart = layer.kind == Recurrence::kGru && g == 2;
        const float bias_ih = exists && from.bias_ih != nullptr ? from.bias_ih[row] : 0;
        const float bias_hh = exists && from.bias_hh != nullptr ? from.bias_hh[row] : 0;
        float* biases = layer.biases + block * (gates + 1) * kStepLanes;
        biases[column] = stands_apart ? bias_ih : bias_ih + bias_hh;
        if (g == gates - 1) biases[width + lane] = stands_apart ? bias_hh : 0;
        for (int part = 0; part < 2; ++part) {
          const int64_t columns = part == 0 ? layer.inputs : layer.hidden;
          const float* values = (part == 0 ? from.weight_ih : from.weight_hh) + (exists ? row * columns : 0);
          const float scale = exists && layer.scales != nullptr ? scale_of(values, columns) : 0;
          if (layer.scales != nullptr) layer.scales[(block * 2 + part) * width + column] = scale;
          S* to = weights + (block * depth + (part == 0 ? 0 : layer.inputs)) * width + column;
          for (int64_t k = 0; k < columns; ++k) narrow_to(exists ? values[k] : 0.0f, scale, to + k * width);
        }
      }
    }
  }
}

// A few rows of one matrix product: sums[i][g] = x[i] . column g of the weights.
template <typename S, int kRows, int kGates>
WORDKILN_INLINE void product(int64_t depth, const float* x, int64_t x_row, const S* weights,
                             Vec<float> (&sums)[kRows][kGates]) {
  constexpr int kWays = kRows * kGates >= 8 ? 1 : 8 / (kRows * kGates), kWidth = kGates * kStepLanes;
  Vec<float> acc[kWays][kRows][kGates] = {};
  int64_t k = 0;
  for (; k + kWays <= depth; k += kWays, x += kWays, weights += kWays * kWidth) {
    WORDKILN_UNROLL
    for (int way = 0; way < kWays; ++way) {
      WORDKILN_UNROLL
      for (int g = 0; g < kGates; ++g) {
        const S* from = weights + way * kWidth + g * kStepLanes;
        __builtin_prefetch(reinterpret_cast<const char*>(from) + kAhead);
        const Vec<float> column = widened(from);
        WORDKILN_UNROLL
        for (int i = 0; i < kRows; ++i) acc[way][i][g] += broadcast(x[i * x_row + way]) * column;
      }
    }
  }
  for (; k < depth; ++k, ++x, weights += kWidth) {
    for (int g = 0; g < kGates; ++g) {
      const Vec<float> column = widened(weights + g * kStepLanes);
      WORDKILN_UNROLL
      for (int i = 0; i < kRows; ++i) acc[0][i][g] += broadcast(x[i * x_row]) * column;
    }
  }
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int g = 0; g < kGates; ++g) {
      sums[i][g] = acc[0][i][g];
      WORDKILN_UNROLL
      for (int way = 1; way < kWays; ++way) sums[i][g] += acc[way][i][g];
    }
  }
}

// One block of units in a few rows; pointers are those of the first row, h and c to the block's first unit.
struct StepTile {
  const StepLayer* layer;
  int64_t block;
  const float* x;
  const float* h_before;  // [rows, H] from unit 0
  float* c;
  float* h;
  int units;
};

template <Recurrence kKind, int kGates>
WORDKILN_INLINE void finish(const StepTile& tile, int i, const Vec<float> (&gate)[kGates], Vec<float> hidden_new) {
  const int64_t state = i * tile.layer->hidden;
  const int n = tile.units;
  if constexpr (kKind == Recurrence::kLstm) {
    const Vec<float> c =
        sigmoid<float>(gate[1]) * load(tile.c + state, n) + sigmoid<float>(gate[0]) * tanh<float>(gate[2]);
    store(tile.c + state, c, n);
    store(tile.h + state, sigmoid<float>(gate[3]) * tanh<float>(c), n);
  } else if constexpr (kKind == Recurrence::kGru) {
    const Vec<float> fresh = tanh<float>(gate[2] + sigmoid<float>(gate[0]) * hidden_new);
    const Vec<float> before = load(tile.h_before + state + tile.block * kStepLanes, n);
    store(tile.h + state, fresh + sigmoid<float>(gate[1]) * (before - fresh), n);
  } else if constexpr (kKind == Recurrence::kTanh) {
    store(tile.h + state, tanh<float>(gate[0]), n);
  } else {
    store(tile.h + state, gate[0] < 0.0f ? Vec<float>{} : gate[0], n);  // a NaN stays one
  }
}

template <typename S, Recurrence kKind, int kRows>
void step_tile(const StepTile& tile) {
  constexpr int kGates = static_cast<int>(gates_count(kKind)), kWidth = kGates * kStepLanes;
  const StepLayer& layer = *tile.layer;
  const S* weights = static_cast<const S*>(layer.weights) + tile.block * (layer.inputs + layer.hidden) * kWidth;
  const float* biases = layer.biases + tile.block * (kWidth + kStepLanes);
  const float* scales = layer.scales + (layer.scales == nullptr ? 0 : tile.block * 2 * kWidth);
  Vec<float> from_x[kRows][kGates], from_h[kRows][kGates];
  product<S, kRows, kGates>(layer.inputs, tile.x, layer.inputs, weights, from_x);
  product<S, kRows, kGates>(layer.hidden, tile.h_before, layer.hidden, weights + layer.inputs * kWidth, from_h);
  for (int i = 0; i < kRows; ++i) {
    Vec<float> gate[kGates], hidden_new = load(biases + kWidth);
    for (int g = 0; g < kGates; ++g) {
      if (scales != nullptr) {
        from_x[i][g] *= load(scales + g * kStepLanes);
        from_h[i][g] *= load(scales + kWidth + g * kStepLanes);
      }
      gate[g] = load(biases + g * kStepLanes) + from_x[i][g];
      if (kKind == Recurrence::kGru && g == 2) {
        hidden_new += from_h[i][g];
      } else {
        gate[g] += from_h[i][g];
      }
    }
    finish<kKind, kGates>(tile, i, gate, hidden_new);
  }
}

typedef void (*StepTileFunction)(const StepTile&);

template <typename S, Recurrence kKind>
StepTileFunction step_tile_of(int64_t rows) {
  static constexpr StepTileFunction kTiles[] = {step_tile<S, kKind, 1>, step_tile<S, kKind, 2>, step_tile<S, kKind, 3>,
                                                step_tile<S, kKind, 4>};
  return kTiles[rows - 1];
}

constexpr int64_t kStepRows = 4;

template <typename S, Recurrence kKind>
class StepPass {
 public:
  explicit StepPass(const StepCall& call) : call_(call), hidden_(call.layers[0].hidden) {}

  void run() {
    const int64_t state = call_.batch * hidden_;
    const Workspace workspace(call_.count * state * sizeof(float));
    next_ = static_cast<float*>(workspace.data());
    double work = 0;
    for (int64_t i = 0; i < call_.count; ++i) {
      const StepLayer& layer = call_.layers[i];
      work +=
          static_cast<double>(call_.batch * gates_count(kKind) * hidden_) * static_cast<double>(layer.inputs + hidden_);
    }
    parallel_threads(threads_for(work), [this, state](int thread, int threads) {
      for (int64_t i = 0; i < call_.count; ++i) {
        const Range mine = split(call_.layers[i].blocks, thread, threads);
        const float* x = i == 0 ? call_.x : next_ + (i - 1) * state;
        for (int64_t block = mine.begin; block < mine.end; ++block) advance(i, block, x);
        meeting_.wait(threads);
        // Everyone has read this layer's h by now.
        const Range part = split(state, thread, threads);
        const int64_t begin = i * state + part.begin, bytes = (part.end - part.begin) * sizeof(float);
        if (bytes > 0) __builtin_memcpy(call_.h + begin, next_ + begin, bytes);
      }
    });
  }

 private:
  void advance(int64_t i, int64_t block, const float* x) {
    const StepLayer& layer = call_.layers[i];
    const int64_t unit = block * kStepLanes, left = hidden_ - unit;
    for (int64_t row = 0; row < call_.batch; row += kStepRows) {
      const int64_t rows = call_.batch - row < kStepRows ? call_.batch - row : kStepRows;
      const int64_t state = (i * call_.batch + row) * hidden_;
      step_tile_of<S, kKind>(rows)({
          .layer = &layer,
          .block = block,
          .x = x + row * layer.inputs,
          .h_before = call_.h + state,
          .c = kKind == Recurrence::kLstm ? call_.c + state + unit : nullptr,
          .h = next_ + state + unit,
          .units = left < kStepLanes ? static_cast<int>(left) : kStepLanes,
      });
    }
  }

  const StepCall& call_;
  int64_t hidden_;
  float* next_ = nullptr;  // [layers, B, H]
  SpinBarrier meeting_;
};

template <typename S>
void run(const StepCall& call) {
  switch (call.layers[0].kind) {
    case Recurrence::kLstm:
      return StepPass<S, Recurrence::kLstm>(call).run();
    case Recurrence::kGru:
      return StepPass<S, Recurrence::kGru>(call).run();
    case Recurrence::kTanh:
      return StepPass<S, Recurrence::kTanh>(call).run();
    case Recurrence::kRelu:
      return StepPass<S, Recurrence::kRelu>(call).run();
  }
}

void pack_any(const StepLayer& layer, const RecurrentWeights& weights) {
  switch (layer.storage) {
    case WeightStorage::kFloat32:
      return pack<float>(layer, weights);
    case WeightStorage::kBfloat16:
      return pack<Bfloat16>(layer, weights);
    case WeightStorage::kInt8:
      return pack<int8_t>(layer, weights);
  }
}

void run_any(const StepCall& call) {
  switch (call.layers[0].storage) {
    case WeightStorage::kFloat32:
      return run<float>(call);
    case WeightStorage::kBfloat16:
      return run<Bfloat16>(call);
    case WeightStorage::kInt8:
      return run<int8_t>(call);
  }
}

}  // namespace

const StepKernels step_kernels = {kStepLanes, pack_any, run_any};

}  // namespace wordkiln::cpu::WORDKILN_ISA
