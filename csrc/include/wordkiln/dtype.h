// The element types of arrays.
#pragma once

namespace wordkiln {

// bfloat16 is storage: two bytes, the upper half of a float32. Kernels widen it and accumulate in float32.
enum class DType { kFloat32, kFloat64, kBfloat16 };

}  // namespace wordkiln
