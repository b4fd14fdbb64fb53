// The affine map of a few rows by weights that were packed beforehand (inference).
//
// Sizes: M rows, K inputs, N outputs. Rows and bias are float32; the packed weights are float32 or bfloat16, with
// products and sums in float32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wordkiln {

enum class LinearStorage { kFloat32, kBfloat16 };

struct LinearSizes {
  int64_t outputs, inputs;
};

struct LinearRun {
  const float* x;      // [M, K]
  const void* packed;  // from linear_pack
  const float* bias;   // [N], or null
  float* out;          // [M, N]
  int64_t rows;
  LinearSizes sizes;
  LinearStorage storage;
};

// Bytes that linear_pack fills.
size_t linear_packed_bytes(LinearStorage storage, const LinearSizes& sizes);

// weight: [N, K]. To bfloat16 it is rounded to nearest even. `packed` must be aligned to 64 bytes.
void linear_pack(LinearStorage storage, const LinearSizes& sizes, const float* weight, void* packed);

void linear_run(const LinearRun& arguments);

}  // namespace wordkiln
