// The element types of arrays.
#pragma once

#include <cstddef>

namespace wordkiln {

// bfloat16 is storage: two bytes, the upper half of a float32. Kernels widen it and accumulate in float32.
enum class DType { kFloat32, kFloat64, kBfloat16 };

constexpr size_t size_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

}  // namespace wordkiln
