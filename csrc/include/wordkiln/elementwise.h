// The vector functions inside the kernels, on plain arrays.
#pragma once

#include <cstdint>

#include "wordkiln/dtype.h"

namespace wordkiln {

// Largest error against the exact value, in units in the last place, wherever the exact value is a normal number;
// below those exp and sigmoid give 0. bfloat16: computed in float32, then rounded to the nearest. Tested on every
// instruction set.
enum class ElementwiseFunction {
  kExp,      // 2 ulp
  kSigmoid,  // 4 ulp
  kTanh,     // 4 ulp
  kErf,      // 12 ulp
};

// x, out: [count]; out may be x.
void elementwise(DType dtype, ElementwiseFunction function, const void* x, void* out, int64_t count);

}  // namespace wordkiln
