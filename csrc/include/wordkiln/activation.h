// Activations, with what comes before or behind them in one pass over memory. Arrays are contiguous, of elements of
// `dtype`.
#pragma once

#include <cstdint>

#include "wordkiln/dtype.h"

namespace wordkiln {

// GELU of x + bias (Hendrycks and Gimpel 2016): y Phi(y), Phi the distribution function of the normal distribution.
// Sizes: N rows, F width. `out` may be x; grad_x may be x or grad_out.
struct GeluForward {
  const void* x;     // [N, F]
  const void* bias;  // [F], or null
  void* out;         // [N, F]
  int64_t rows, width;
  bool tanh;  // Phi(y) by tanh (their second formula), and not by erf
};

struct GeluBackward {
  const void* x;         // [N, F]
  const void* bias;      // [F], or null
  const void* grad_out;  // [N, F]
  void* grad_x;          // [N, F] out
  void* grad_bias;       // [F] out, where there is a bias
  int64_t rows, width;
  bool tanh;
};

// SwiGLU's product (Shazeer 2020, equation 6): silu(gate) * up, with silu(x) = x sigmoid(x). All arrays are [count].
// An output may be one of the inputs.
struct SwigluForward {
  const void* gate;
  const void* up;
  void* out;
  int64_t count;
};

struct SwigluBackward {
  const void* gate;
  const void* up;
  const void* grad_out;
  void* grad_gate;  // out
  void* grad_up;    // out
  int64_t count;
};

void gelu_forward(DType dtype, const GeluForward& arguments);
// Throws std::bad_alloc when scratch (a row of sums for each thread) cannot be had.
void gelu_backward(DType dtype, const GeluBackward& arguments);
void swiglu_forward(DType dtype, const SwigluForward& arguments);
void swiglu_backward(DType dtype, const SwigluBackward& arguments);

}  // namespace wordkiln
