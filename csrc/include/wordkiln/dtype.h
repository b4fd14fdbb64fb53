// The element types that kernels compute in.
#pragma once

namespace wordkiln {

enum class DType { kFloat32, kFloat64 };

}  // namespace wordkiln
