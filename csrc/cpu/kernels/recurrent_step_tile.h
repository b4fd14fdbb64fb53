// What a step computes for a block of hidden units in a few rows. Every weight is read once and widened in registers.
#pragma once

#include "cpu/kernels/math.h"
#include "cpu/step_layer.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int kStepLanes = kLanes<float>;
constexpr int64_t kAhead = 4096;  // bytes to fetch ahead: memory takes longer than the prefetcher looks

WORDKILN_INLINE Vec<float> widened(const float* from) { return load(from); }

WORDKILN_INLINE Vec<float> widened(const Bfloat16* from) { return load(from); }

WORDKILN_INLINE Vec<float> widened(const int8_t* from) { return __builtin_convertvector(load_bytes(from), Vec<float>); }

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
  const float* projected;  // [rows][G][lanes], what `project` made of x; or null
  const float* h_before;   // [rows, H] from unit 0
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

// The inputs' part of a block's gates, for rows of any steps: to [rows][G][lanes].
template <typename S, Recurrence kKind, int kRows>
void project_tile(const StepLayer& layer, int64_t block, const float* x, float* to) {
  constexpr int kGates = static_cast<int>(gates_count(kKind)), kWidth = kGates * kStepLanes;
  const S* weights = static_cast<const S*>(layer.weights) + block * (layer.inputs + layer.hidden) * kWidth;
  Vec<float> sums[kRows][kGates];
  product<S, kRows, kGates>(layer.inputs, x, layer.inputs, weights, sums);
  for (int i = 0; i < kRows; ++i) {
    for (int g = 0; g < kGates; ++g) store(to + i * kWidth + g * kStepLanes, sums[i][g]);
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
  if (tile.projected == nullptr) {
    product<S, kRows, kGates>(layer.inputs, tile.x, layer.inputs, weights, from_x);
  } else {
    for (int i = 0; i < kRows; ++i) {
      for (int g = 0; g < kGates; ++g) from_x[i][g] = load(tile.projected + i * kWidth + g * kStepLanes);
    }
  }
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

constexpr int64_t kStepRows = 4;  // of a tile

typedef void (*StepTileFunction)(const StepTile&);
typedef void (*ProjectTileFunction)(const StepLayer&, int64_t, const float*, float*);

template <typename S, Recurrence kKind>
StepTileFunction step_tile_of(int64_t rows) {
  static constexpr StepTileFunction kTiles[] = {step_tile<S, kKind, 1>, step_tile<S, kKind, 2>, step_tile<S, kKind, 3>,
                                                step_tile<S, kKind, 4>};
  return kTiles[rows - 1];
}

template <typename S, Recurrence kKind>
ProjectTileFunction project_tile_of(int64_t rows) {
  static constexpr ProjectTileFunction kTiles[] = {project_tile<S, kKind, 1>, project_tile<S, kKind, 2>,
                                                   project_tile<S, kKind, 3>, project_tile<S, kKind, 4>};
  return kTiles[rows - 1];
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
