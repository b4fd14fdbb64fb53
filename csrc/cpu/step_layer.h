// What RecurrentStep hands to its kernels.
#pragma once

#include "wordkiln/recurrent_step.h"

namespace wordkiln::cpu {

// Blocks are of as many units as a float32 vector has lanes; units that do not exist have zero weights.
struct StepLayer {
  Recurrence kind;
  WeightStorage storage;
  int64_t inputs, hidden, blocks;
  void* weights;  // [blocks][I + H][G][lanes] of the storage type
  float* scales;  // [blocks][2][G][lanes] of W_ih and W_hh; int8 only
  float* biases;  // [blocks][G + 1][lanes]: the sum of both, and for the GRU's new gate b_ih, then at the end b_hh
};

struct StepCall {
  const StepLayer* layers;
  int64_t count, batch, steps;
  const float* x;  // [T, B, I]
  float* h;        // [count, B, H]
  float* c;        // [count, B, H], LSTM
  float* out;      // [T, B, H] of the last layer, or null
};

struct StepKernels {
  int64_t lanes;
  void (*pack)(const StepLayer& layer, const RecurrentWeights& weights);
  void (*run)(const StepCall& call);
};

}  // namespace wordkiln::cpu
