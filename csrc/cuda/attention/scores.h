// Between the products of attention: cap, bias, slopes, mask, softmax and dropout. Scores are in base 2.
#pragma once

#include "common/philox.h"
#include "cuda/attention/params.h"

namespace wordkiln::cuda {

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

  // `derivative`: of the score before the cap, by the product times to_log2 and with the cap's own factor left out.
  WORDKILN_DEVICE float apply(float product, int query, int key, float& derivative) const {
    float x = product * p_.to_log2;
    derivative = 1.0f;
    if (p_.cap != 0.0f) {
      x = device::tanh_fast(x);
      derivative = 1.0f - x * x;
      x *= p_.cap;
    }
    if (bias_ != nullptr && query < row_.queries && key < row_.keys) {
      x += kLog2E * device::to_float(bias_[query * p_.bias_strides.row + key * p_.bias_strides.key]);
    }
    const float distance = static_cast<float>(key - row_.position(query));
    return slope_ == 0.0f ? x : x - slope_ * (distance < 0.0f ? -distance : distance);
  }

 private:
  const ScoreParams& p_;
  const Row& row_;
  const T* bias_;
  float slope_;
};

// Which weights of a query head are dropped: docs/attention.md, Dropout.
class Dropout {
 public:
  WORDKILN_DEVICE Dropout(const ScoreParams& p, const Row& row, int head)
      : p_(p), head_(static_cast<uint32_t>(row.index * p.heads + head)) {}

  // Bit w: whether the weight of key `key` + 16 w stays, for a key of the first sixteen of its 64.
  WORDKILN_DEVICE uint32_t kept(int query, int key) const {
    uint32_t counter[4] = {static_cast<uint32_t>(key / 64 * 16 + key % 16), static_cast<uint32_t>(query), head_,
                           p_.offset};
    philox4x32(counter, p_.seed,
               [](uint32_t x, uint32_t y, uint32_t& high) { return device::multiply_wide(x, y, high); });
    uint32_t kept = 0;
    WORDKILN_UNROLL
    for (int word = 0; word < 4; ++word) kept |= (counter[word] >= p_.drop_below ? 1u : 0u) << word;
    return kept;
  }

  // What one weight is multiplied with.
  WORDKILN_DEVICE float factor(int query, int key) const {
    if (p_.drop_below == 0) return 1.0f;
    return (kept(query, key) >> (key / 16 % 4) & 1) != 0 ? p_.keep : 0.0f;
  }

 private:
  const ScoreParams& p_;
  uint32_t head_;
};

// What the gradient of a score needs of its weight.
struct Weighed {
  float slope;   // the weight before dropout, times the derivative of the score by the product over `scale`
  float factor;  // of dropout
};

// The weight that a query gives a key, and the gradient of its score.
template <typename T, bool kChanged>
class WeightGradient {
 public:
  WORDKILN_DEVICE WeightGradient(const ScoreParams& p, const Row& row, int head)
      : p_(p), change_(p, row, head), dropout_(p, row, head) {}

  // Turns the product of q and k into the weight behind dropout; `lse` is in base 2.
  WORDKILN_DEVICE Weighed weigh(float& product, float lse, int query, int key) const {
    float derivative = 1.0f, factor = 1.0f, score = product * p_.to_log2;
    if constexpr (kChanged) {
      score = change_.apply(product, query, key, derivative);
      factor = dropout_.factor(query, key);
    }
    const float weight = device::exp2_fast(score - lse);
    product = factor * weight;
    return {derivative * weight, factor};
  }

  // Turns the product of grad_out and v into the gradient of that of q and k over `scale`.
  WORDKILN_DEVICE void differentiate(float& grad, const Weighed& weighed, float delta) const {
    grad = weighed.slope * (weighed.factor * grad - delta);
  }

  // Weighed as one number, whose sign says whether dropout took it, and back.
  WORDKILN_DEVICE static float told(const Weighed& weighed) {
    return weighed.factor == 0.0f ? -weighed.slope : weighed.slope;
  }
  WORDKILN_DEVICE Weighed heard(float told) const {
    if constexpr (!kChanged) return {told, 1.0f};
    return {fabsf(told), told < 0.0f ? 0.0f : p_.keep};
  }

 private:
  const ScoreParams& p_;
  const ScoreChange<T> change_;
  const Dropout dropout_;
};

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
