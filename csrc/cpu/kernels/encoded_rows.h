// Rows of weights as files have them, widened to float32: plain numbers, and ggml's blocks of 32 codes with a scale.
//
// Products of a code (at most 8 bits) and a scale (11) are exact, so that contraction changes no bit: the values are
// those of wordkiln.interop._gguf_blocks.
#pragma once

#include "cpu/kernels/simd.h"
#include "wordkiln/encoding.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

typedef Simd<float>::Int Int;

// Bytes of a row's first `values` values: of blocks a multiple of kEncodingBlock.
inline int64_t encoded_bytes(WeightEncoding encoding, int64_t values) {
  switch (encoding) {
    case WeightEncoding::kFloat32:
      return values * 4;
    case WeightEncoding::kFloat16:
    case WeightEncoding::kBfloat16:
      return values * 2;
    case WeightEncoding::kQ4_0:
      return values / kEncodingBlock * 18;
    case WeightEncoding::kQ4_1:
      return values / kEncodingBlock * 20;
    case WeightEncoding::kQ8_0:
      return values / kEncodingBlock * 34;
  }
  __builtin_unreachable();
}

// float16 as the low halves of words. Denormals through a float32 with the exponent of the smallest normal number, from
// which that number is taken off: no float32 on the way is denormal, whatever the process does to those.
WORDKILN_INLINE Vec<float> widen_float16(Words halves) {
  const Words size = (halves & 0x7fffu) << 13, exponent = size & 0x0f800000u;
  const Words normal = size + 0x38000000u, infinite = size + 0x70000000u;
  const Words small = (Words)((Vec<float>)(size + 0x38800000u) - 0x1p-14f);
  const Words found = exponent == 0u ? small : exponent == 0x0f800000u ? infinite : normal;
  return (Vec<float>)(found | (halves & 0x8000u) << 16);
}

inline float float16_at(const char* from) {
  uint16_t half;
  __builtin_memcpy(&half, from, sizeof half);
  return widen_float16(Words{} + half)[0];
}

// to[0..32) of one block.
inline void widen_q4(const char* codes, float scale, float least, float* to) {
  for (int64_t j = 0; j < kEncodingBlock / 2; j += kLanes<float>) {
    const Int pairs = load_bytes(reinterpret_cast<const int8_t*>(codes) + j);
    store(to + j, __builtin_convertvector(pairs & 15, Vec<float>) * scale + least);
    store(to + kEncodingBlock / 2 + j, __builtin_convertvector(pairs >> 4 & 15, Vec<float>) * scale + least);
  }
}

inline void widen_block(WeightEncoding encoding, const char* block, float* to) {
  const float scale = float16_at(block);
  if (encoding == WeightEncoding::kQ4_0) return widen_q4(block + 2, scale, -8 * scale, to);
  if (encoding == WeightEncoding::kQ4_1) return widen_q4(block + 4, scale, float16_at(block + 2), to);
  for (int64_t j = 0; j < kEncodingBlock; j += kLanes<float>) {
    const Int codes = load_bytes(reinterpret_cast<const int8_t*>(block) + 2 + j);
    store(to + j, __builtin_convertvector(codes, Vec<float>) * scale);
  }
}

// to[0..count): the values of a row from `begin` on, a multiple of kEncodingBlock.
inline void widen_row(WeightEncoding encoding, const char* row, int64_t begin, int64_t count, float* to) {
  row += encoded_bytes(encoding, begin);
  if (encoding == WeightEncoding::kFloat32) {
    __builtin_memcpy(to, row, static_cast<size_t>(count) * sizeof(float));
  } else if (encoding == WeightEncoding::kFloat16 || encoding == WeightEncoding::kBfloat16) {
    for_vectors<float>(0, count, [&](int64_t j, int n) {
      HalfWords halves = {};
      __builtin_memcpy(&halves, row + j * 2, static_cast<size_t>(n) * 2);
      store(
          to + j,
          encoding == WeightEncoding::kBfloat16 ? widen(halves) : widen_float16(__builtin_convertvector(halves, Words)),
          n);
    });
  } else {
    for (; count > 0; count -= kEncodingBlock, to += kEncodingBlock) {
      widen_block(encoding, row, to);
      row += encoded_bytes(encoding, kEncodingBlock);
    }
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
