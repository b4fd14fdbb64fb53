// Steps for a few rows. A step reads every weight once, so it is as fast as memory delivers them: they lie in the order
// in which they are read, and the hidden units are cut over the threads, which meet after each layer. Several steps go
// layer by layer: the inputs' weights are then read once for all of them, the recurrent ones for each.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/parallel.h"
#include "cpu/kernels/recurrent_step_tile.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

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

template <typename S, Recurrence kKind>
class StepPass {
 public:
  explicit StepPass(const StepCall& call)
      : call_(call),
        hidden_(call.layers[0].hidden),
        state_(call.batch * hidden_),
        rows_(call.steps * call.batch),
        projects_(call.steps > 1) {}

  void run() {
    const int64_t projected = projects_ ? call_.layers[0].blocks * rows_ * kWidth : 0;
    const Workspace workspace((projected + 2 * rows_ * hidden_) * sizeof(float));
    projected_ = static_cast<float*>(workspace.data());
    outputs_ = projected_ + projected;
    parallel_threads(threads_for(work_of_a_step()), [this](int thread, int threads) {
      for (int64_t i = 0; i < call_.count; ++i) {
        const Range mine = split(call_.layers[i].blocks, thread, threads);
        for (int64_t block = mine.begin; projects_ && block < mine.end; ++block) project(i, block);
        for (int64_t t = 0; t < call_.steps; ++t) {
          for (int64_t block = mine.begin; block < mine.end; ++block) advance(i, t, block);
          meeting_.wait(threads);
        }
        // Everyone has read this layer's h by now.
        const Range part = split(state_, thread, threads);
        const int64_t bytes = (part.end - part.begin) * sizeof(float);
        const float* last = output(i) + (call_.steps - 1) * state_;
        if (bytes > 0) __builtin_memcpy(call_.h + i * state_ + part.begin, last + part.begin, bytes);
      }
    });
  }

 private:
  static constexpr int64_t kWidth = gates_count(kKind) * kStepLanes;

  double work_of_a_step() const {
    double work = 0;
    for (int64_t i = 0; i < call_.count; ++i) {
      const int64_t depth = call_.layers[i].inputs + hidden_;
      work += static_cast<double>(call_.batch * gates_count(kKind) * hidden_) * static_cast<double>(depth);
    }
    return work;
  }

  // A layer's h of all steps [T, B, H]. Two layers' memory is enough: who writes a layer's has read that below it, and
  // the others have met since they read the one below that.
  float* output(int64_t i) const {
    const bool last = i == call_.count - 1;
    return last && call_.out != nullptr ? call_.out : outputs_ + i % 2 * rows_ * hidden_;
  }

  const float* input(int64_t i) const { return i == 0 ? call_.x : output(i - 1); }

  // A block's own part of what `project` leaves: only the thread that has the block reads it.
  float* projected(int64_t block) const { return projected_ + block * rows_ * kWidth; }

  void project(int64_t i, int64_t block) const {
    const StepLayer& layer = call_.layers[i];
    for (int64_t row = 0; row < rows_; row += kStepRows) {
      const int64_t rows = rows_ - row < kStepRows ? rows_ - row : kStepRows;
      project_tile_of<S, kKind>(rows)(layer, block, input(i) + row * layer.inputs, projected(block) + row * kWidth);
    }
  }

  void advance(int64_t i, int64_t t, int64_t block) const {
    const StepLayer& layer = call_.layers[i];
    const int64_t unit = block * kStepLanes, left = hidden_ - unit;
    const float* before = t == 0 ? call_.h + i * state_ : output(i) + (t - 1) * state_;
    for (int64_t row = 0; row < call_.batch; row += kStepRows) {
      const int64_t rows = call_.batch - row < kStepRows ? call_.batch - row : kStepRows;
      const int64_t at = t * call_.batch + row;
      step_tile_of<S, kKind>(rows)({
          .layer = &layer,
          .block = block,
          .x = input(i) + at * layer.inputs,
          .projected = projects_ ? projected(block) + at * kWidth : nullptr,
          .h_before = before + row * hidden_,
          .c = kKind == Recurrence::kLstm ? call_.c + i * state_ + row * hidden_ + unit : nullptr,
          .h = output(i) + at * hidden_ + unit,
          .units = left < kStepLanes ? static_cast<int>(left) : kStepLanes,
      });
    }
  }

  const StepCall& call_;
  int64_t hidden_, state_, rows_;  // rows of all steps
  bool projects_;
  float *projected_ = nullptr, *outputs_ = nullptr;  // [blocks][rows][G][lanes], [2][rows, H]
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
