// The random words of attention's dropout and of zoneout.
#pragma once

#include "common/philox.h"
#include "cpu/kernels/simd.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kDrawn = 64;  // words that are drawn together

// Those of kDrawn keys (zoneout: units) from `key`, a multiple of kDrawn: a function of the arguments alone. Counter c
// gives the words of keys c, c + 16, c + 32 and c + 48, so that every width of vector draws the same.
WORDKILN_INLINE void draw_words(uint64_t seed, uint32_t offset, uint32_t head, int64_t query, int64_t key,
                                uint32_t (&words)[kDrawn]) {
  constexpr int64_t kCounters = kDrawn / 4;
  constexpr int64_t kWords = WORDKILN_VECTOR_BYTES / 4;
  for (int64_t c = 0; c < kCounters; c += kWords) {
    const uint32_t first = static_cast<uint32_t>(key / kDrawn * kCounters + c);
    Words counter[4] = {(Words)lane_numbers<float>() + first, static_cast<uint32_t>(query) - Words{}, head - Words{},
                        offset - Words{}};
    philox4x32(counter, seed, [](Words x, uint32_t y, Words& high) { return multiply_wide(x, y, high); });
    for (int part = 0; part < 4; ++part) {
      __builtin_memcpy(words + part * kCounters + c, &counter[part], sizeof counter[part]);
    }
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
