// Rotary positions: each pair (x[i], x[i + D/2]) of a head is turned by an angle of its row (Su et al. 2021, RoFormer,
// section 3.2.2, with Hugging Face's order of the pairs).
#pragma once

#include <cstdint>

#include "wordkiln/dtype.h"

namespace wordkiln {

struct Rotary {
  const void* x;                   // [rows, H, D], rows `x_row` elements apart, heads D apart
  const void* cos;                 // [rows, D / 2] of float32, or of float64 for a float64 x
  const void* sin;                 // the same
  void* out;                       // [rows, H, D] contiguous
  int64_t rows, heads, head_size;  // head_size D even
  int64_t x_row;
  bool back;  // turn by the negative angles: the gradient
};

void rotary(DType dtype, const Rotary& arguments);

}  // namespace wordkiln
