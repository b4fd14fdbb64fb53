// RMS normalisation of rows (Zhang and Sennrich 2019, equation 4), forward and backward in one pass over memory each.
//
// Sizes: N rows, D width. All arrays are contiguous, of elements of `dtype`.
#pragma once

#include <cstdint>

#include "wordkiln/dtype.h"

namespace wordkiln {

struct RmsNormForward {
  const void* x;         // [N, D]
  const void* residual;  // [N, D], or null
  const void* weight;    // [D]
  void* total;           // [N, D] out: x + residual; null without a residual
  void* out;             // [N, D]
  void* scale;           // [N] out: 1 / sqrt(mean(total^2) + eps)
  int64_t rows, width;
  double eps;
};

struct RmsNormBackward {
  const void* total;       // [N, D] what was normalised
  const void* weight;      // [D]
  const void* scale;       // [N]
  const void* grad_out;    // [N, D]
  const void* grad_total;  // [N, D], or null: the gradient of `total` from elsewhere
  void* grad_x;            // [N, D] out: of x, and of the residual
  void* grad_weight;       // [D] out
  int64_t rows, width;
};

// Throw std::bad_alloc when scratch (a row of sums for each thread) cannot be had.
void rms_norm_forward(DType dtype, const RmsNormForward& arguments);
void rms_norm_backward(DType dtype, const RmsNormBackward& arguments);

}  // namespace wordkiln
