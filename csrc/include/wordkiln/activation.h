// SwiGLU's product (Shazeer 2020, equation 6): silu(gate) * up, with silu(x) = x sigmoid(x).
//
// All arrays are [count], contiguous, of elements of `dtype`. An output may be one of the inputs.
#pragma once

#include <cstdint>

#include "wordkiln/dtype.h"

namespace wordkiln {

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

void swiglu_forward(DType dtype, const SwigluForward& arguments);
void swiglu_backward(DType dtype, const SwigluBackward& arguments);

}  // namespace wordkiln
