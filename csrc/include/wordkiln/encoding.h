// How the rows of a matrix of weights lie in a file.
//
// Plain numbers, or ggml's blocks of 32 values (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): a float16
// scale d, then codes q. Q8_0: d * q, q signed bytes. Q4_0: d * (q - 8), byte j the codes j (low half) and j + 16.
// Q4_1: d * q + m, with m, a float16, behind d.
#pragma once

#include <cstdint>

namespace wordkiln {

enum class WeightEncoding { kFloat32, kFloat16, kBfloat16, kQ4_0, kQ4_1, kQ8_0 };

constexpr int64_t kEncodingBlock = 32;

// A matrix [outputs][inputs] before it is packed, rows behind one another; null: there is none. Of blocks there are
// whole ones in a row. float32 must be aligned.
struct EncodedMatrix {
  const void* data = nullptr;
  WeightEncoding encoding = WeightEncoding::kFloat32;
};

}  // namespace wordkiln
