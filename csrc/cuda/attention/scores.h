// Between the products of attention: cap, bias, slopes, mask, softmax and dropout. Scores are in base 2.
#pragma once

#include "common/philox.h"
#include "cuda/attention/params.h"

namespace wordkiln::cuda {

// One of the scores that a lane holds. What is done to all of them is a pass each, so that none waits for the one
// before it: each(body) calls body(score) for every one.
struct Score {
  float& value;  // the product of q and k, then the score, then the weight
  float& slope;  // the gradient of the score, as far as it is known
  int query, key;
  float lse;  // of the query, in base 2
};

// What a query head's scores become before the softmax. T: the type of the bias.
template <typename T>
class ScoreChange {
 public:
  WORDKILN_DEVICE ScoreChange(const ScoreParams& p, const Row& row, int head)
      : p_(p),
        row_(row),
        bias_(static_cast<const T*>(p.bias)),
        slope_(p.slopes == nullptr ? 0.0f : kLog2E * static_cast<float>(p.slopes[head])) {
    if (bias_ != nullptr) bias_ += row.index * p.bias_strides.batch + head * p.bias_strides.head;
  }

  // Products to scores. Slopes are multiplied by the derivative of the score by the product over `scale`.
  template <typename Each>
  WORDKILN_DEVICE void apply(Each each) const {
    each([&](const Score& s) { s.value *= p_.to_log2; });
    if (p_.cap != 0.0f) {
      each([&](const Score& s) {
        const float x = device::tanh_fast(s.value);
        s.slope *= 1.0f - x * x;
        s.value = p_.cap * x;
      });
    }
    if (bias_ != nullptr) {
      each([&](const Score& s) {
        if (s.query >= row_.queries || s.key >= row_.keys) return;
        s.value += kLog2E * device::to_float(bias_[s.query * p_.bias_strides.row + s.key * p_.bias_strides.key]);
      });
    }
    if (slope_ != 0.0f) {
      each([&](const Score& s) {
        const float distance = static_cast<float>(s.key - row_.position(s.query));
        s.value -= slope_ * (distance < 0.0f ? -distance : distance);
      });
    }
  }

 private:
  const ScoreParams& p_;
  const Row& row_;
  const T* bias_;
  float slope_;
};

// Which of a lane's weights stay.
template <int kTiles, int kColumnTiles>
class Kept {
 public:
  WORDKILN_DEVICE bool operator()(int i, int n, int e) const {
    const int at = (i * kColumnTiles + n) * 4 + e;
    return (words_[at / 32] >> at % 32 & 1) != 0;
  }

  WORDKILN_DEVICE void set(int i, int n, int e, uint32_t bit) {
    const int at = (i * kColumnTiles + n) * 4 + e;
    words_[at / 32] |= (bit & 1) << at % 32;
  }

 private:
  uint32_t words_[(kTiles * kColumnTiles * 4 + 31) / 32] = {};
};

// Which weights of a query head are dropped: docs/attention.md, Dropout.
class Dropout {
 public:
  WORDKILN_DEVICE Dropout(const ScoreParams& p, const Row& row, int head)
      : p_(p), head_(static_cast<uint32_t>(row.index * p.heads + head)) {}

  // Of sums whose rows are queries and columns keys; `query` and `key` of the lane's first one.
  template <int kTiles, int kColumnTiles>
  WORDKILN_DEVICE Kept<kTiles, kColumnTiles> kept_of_queries(int query, int key) const {
    Kept<kTiles, kColumnTiles> kept;
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      WORDKILN_UNROLL
      for (int e = 0; e < 4; ++e) {
        WORDKILN_UNROLL
        for (int n = 0; n < 2; ++n) {
          const uint32_t drawn = draw(query + i * 16 + e / 2 * 8, key + n * 8 + e % 2);
          WORDKILN_UNROLL
          for (int word = 0; word < kColumnTiles / 2; ++word) kept.set(i, n + 2 * word, e, drawn >> word);
        }
      }
    }
    return kept;
  }

  // The same of sums whose rows are keys and columns queries.
  template <int kTiles, int kColumnTiles>
  WORDKILN_DEVICE Kept<kTiles, kColumnTiles> kept_of_keys(int query, int key) const {
    Kept<kTiles, kColumnTiles> kept;
    WORDKILN_UNROLL
    for (int n = 0; n < kColumnTiles; ++n) {
      WORDKILN_UNROLL
      for (int e = 0; e < 4; ++e) {
        const uint32_t drawn = draw(query + n * 8 + e % 2, key + e / 2 * 8);
        WORDKILN_UNROLL
        for (int i = 0; i < kTiles; ++i) kept.set(i, n, e, drawn >> i);
      }
    }
    return kept;
  }

 private:
  // Bit w: whether the weight of key `key` + 16 w stays, of the same 64 keys.
  WORDKILN_DEVICE uint32_t draw(int query, int key) const {
    uint32_t counter[4] = {static_cast<uint32_t>(key / 64 * 16 + key % 16), static_cast<uint32_t>(query), head_,
                           p_.offset};
    philox4x32(counter, p_.seed,
               [](uint32_t x, uint32_t y, uint32_t& high) { return device::multiply_wide(x, y, high); });
    uint32_t kept = 0;
    WORDKILN_UNROLL
    for (int word = 0; word < 4; ++word) kept |= (counter[word] >= p_.drop_below ? 1u : 0u) << word;
    return kept >> key / 16 % 4;
  }

  const ScoreParams& p_;
  uint32_t head_;
};

// Products of q and k to weights before dropout, as the forward pass had them; slopes are multiplied by the weight and
// by the derivative of the score by the product over `scale`.
template <bool kChanged, typename T, typename Each>
WORDKILN_DEVICE void weigh_again(const ScoreParams& p, const ScoreChange<T>& change, Each each) {
  if constexpr (kChanged) change.apply(each);
  each([&](const Score& s) {
    s.value = device::exp2_fast((kChanged ? s.value : s.value * p.to_log2) - s.lse);
    s.slope *= s.value;
  });
}

// What a query has summed of its softmax so far; the four lanes that share a row hold a part of `total` each.
struct SoftmaxSums {
  float largest = -INFINITY;  // of the scores, not yet times `factor`
  float total = 0.0f;         // of exp2(factor (score - largest))

  // Turns half `h` of a row tile's scores into weights. Returns the factor by which what was summed before shrinks.
  template <int kColumnTiles>
  WORDKILN_DEVICE float add(float (&scores)[kColumnTiles][4], int h, float factor) {
    float top = largest;
    WORDKILN_UNROLL
    for (int n = 0; n < kColumnTiles; ++n) top = fmaxf(top, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
    top = fmaxf(top, device::shfl_xor(top, 1));
    top = fmaxf(top, device::shfl_xor(top, 2));
    // Before the first visible score -inf - -inf would be NaN.
    const float base = top == -INFINITY ? 0.0f : factor * top;
    const float shrink = device::exp2_fast(factor * largest - base);
    largest = top;
    total *= shrink;
    WORDKILN_UNROLL
    for (int n = 0; n < kColumnTiles; ++n) {
      WORDKILN_UNROLL
      for (int e = 2 * h; e < 2 * h + 2; ++e) {
        scores[n][e] = device::exp2_fast(factor * scores[n][e] - base);
        total += scores[n][e];
      }
    }
    return shrink;
  }

  WORDKILN_DEVICE float whole_total() const {
    const float half = total + device::shfl_xor(total, 1);
    return half + device::shfl_xor(half, 2);
  }
};

}  // namespace wordkiln::cuda
