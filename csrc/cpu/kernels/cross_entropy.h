// Softmax statistics and gradients of a block of logits that stands on its side: [columns][rows], a lane for each row.
#pragma once

#include "cpu/kernels/math.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// Below every finite logit that counts, and no infinity: -inf - -inf would be NaN.
template <typename T>
constexpr T kLeast = static_cast<T>(sizeof(T) == 4 ? -0x1.fffffep127 : -0x1.fffffffffffffp1023);

// What the columns seen so far say of each row.
template <typename T>
struct RowStatistics {
  T* largest;  // of the logits
  T* total;    // of exp(logit - largest)
  T* sum;      // of the logits
};

// Takes the block into the statistics of kLanes rows, and makes every logit exp(logit - base), where base, the largest
// logit so far, goes to `base`: the gradient then takes one exponential for each row instead of one for each logit.
template <typename T>
WORDKILN_INLINE void take_in(T* logits, int64_t columns, int64_t stride, RowStatistics<T> rows, T* base) {
  const Vec<T> before = load(rows.largest);
  Vec<T> top = before, sum = load(rows.sum);
  for (int64_t j = 0; j < columns; ++j) {
    const Vec<T> z = load(logits + j * stride);
    top = max<T>(z, top);
    sum += z;
  }
  Vec<T> total = load(rows.total) * exp<T>(before - top);
  for (int64_t j = 0; j < columns; ++j) {
    const Vec<T> e = exp<T>(load(logits + j * stride) - top);
    store(logits + j * stride, e);
    total += e;
  }
  store(rows.largest, top);
  store(rows.total, total);
  store(rows.sum, sum);
  store(base, top);
}

// From exp(logit - base) to exp(logit - normaliser) * scale - shift, for one column; factors: exp(base - normaliser) *
// scale of each row.
template <typename T>
WORDKILN_INLINE void to_gradient(T* column, int64_t rows, const T* factors, const T* shifts) {
  for (int64_t i = 0; i < rows; i += kLanes<T>) {
    store(column + i, load(column + i) * load(factors + i) - load(shifts + i));
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
