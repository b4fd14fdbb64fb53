// The online softmax of a decoder's attention: what rows have gathered from keys, page by page and part by part.
#pragma once

#include "cpu/kernels/decoder_pages.h"
#include "cpu/kernels/parallel.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// What rows have gathered from some keys: values [rows, width] weighed by 2^(score - highest), and these weights'
// sum.
struct Gathered {
  float *out, *highest, *total;
};

inline void clear(const Gathered& to, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t d = 0; d < width; ++d) to.out[i * width + d] = 0;
    to.highest[i] = -__builtin_inff();
    to.total[i] = 0;
  }
}

// Not inlined: a step and a prompt must round alike.
__attribute__((noinline)) inline void join(const Gathered& part, const Gathered& sum, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) {
    if (part.highest[i] == -__builtin_inff()) continue;  // a token that sees none of the part's keys
    const float top = part.highest[i] > sum.highest[i] ? part.highest[i] : sum.highest[i];
    const float take = exp2<float>(broadcast(part.highest[i] - top))[0];
    const float keep = exp2<float>(broadcast(sum.highest[i] - top))[0];
    for (int64_t d = i * width; d < (i + 1) * width; d += kLanes<float>) {
      store(sum.out + d, load(sum.out + d) * keep + load(part.out + d) * take);
    }
    sum.total[i] = sum.total[i] * keep + part.total[i] * take;
    sum.highest[i] = top;
  }
}

// The scores [wide] of row i over a page become weights, and its sum is scaled to them; keys outside `seen` have none.
inline void soften(float* scores, const Gathered& part, int64_t i, Range seen, int64_t wide, int64_t width) {
  typedef Simd<float>::Int Int;
  constexpr float kNothing = -__builtin_inff();
  Vec<float> most = broadcast(kNothing);
  for (int64_t j = 0; j < wide; j += kLanes<float>) {
    const Int number = lane_numbers<float>() + static_cast<int32_t>(j);
    const Int hidden = (number < static_cast<int32_t>(seen.begin < 0 ? 0 : seen.begin)) |
                       (number >= static_cast<int32_t>(seen.end < kPageKeys ? seen.end : kPageKeys));
    const Vec<float> x = hidden ? broadcast(kNothing) : load(scores + j);
    most = max<float>(x, most);
    store(scores + j, x);
  }
  const float page_highest = largest<float>(most), before = part.highest[i];
  const float highest = page_highest > before ? page_highest : before;
  // Nothing seen yet: weights of 0, and no difference of infinities.
  const float base = highest == kNothing ? 0.0f : highest;
  Vec<float> sums = {};
  for (int64_t j = 0; j < wide; j += kLanes<float>) {
    const Vec<float> weight = exp2<float>(load(scores + j) - base);
    sums += weight;
    store(scores + j, weight);
  }
  if (highest != before) {
    const float factor = exp2<float>(broadcast(before - base))[0];
    part.total[i] *= factor;
    float* out = part.out + i * width;
    for (int64_t d = 0; d < width; d += kLanes<float>) store(out + d, load(out + d) * factor);
  }
  part.total[i] += sum<float>(sums);
  part.highest[i] = highest;
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
