// The affine map of a few rows by weights that were packed beforehand (inference).
//
// Sizes: M rows, K inputs, N outputs. Rows and bias are float32; the packed weights are float32, bfloat16 or int8.
//
// Products and sums are float32. Weights in int8 are 127 steps to either side of 0, scaled for each output and group of
// kLinearGroup inputs so that the largest is 127. A row's result does not depend on what other rows there are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wordkiln {

enum class LinearStorage { kFloat32, kBfloat16, kInt8 };

constexpr int64_t kLinearGroup = 64;

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

// weight: [N, K]. To bfloat16 it is rounded to nearest even; for int8 it must be finite. `packed` must be aligned to 64
// bytes.
void linear_pack(LinearStorage storage, const LinearSizes& sizes, const float* weight, void* packed);

void linear_run(const LinearRun& arguments);

// out [count, K]: the weights of some outputs again, as they are stored; outputs: [count], each 0 to N - 1.
void linear_unpack(LinearStorage storage, const LinearSizes& sizes, const void* packed, const int64_t* outputs,
                   int64_t count, float* out);

}  // namespace wordkiln
