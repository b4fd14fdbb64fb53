// Online softmax of rows of scores in base 2, times log2(e): exp2 needs no reduction by ln 2.
#pragma once

#include "cpu/kernels/math.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr double kLog2E = 1.44269504088896340736, kLn2 = 0.693147180559945309417;

template <typename C>
constexpr C kInfinity = static_cast<C>(__builtin_inf());

// What a row has summed of its softmax so far.
template <typename C>
struct SoftmaxSums {
  C largest = -kInfinity<C>;  // of the scores
  C total = 0;                // of exp(score - largest)
};

// Takes scores[kRows][columns] times a factor > 0 into account; those that do not count must be -inf. shrink: the
// factors by which what was summed before must shrink. Rows go together: their chains of dependent operations overlap,
// and the ends of the loops are mispredicted once for all.
template <int kRows, typename C>
WORDKILN_INLINE void add_largest(const C* scores, int64_t scores_row, int64_t columns, C factor, SoftmaxSums<C>* sums,
                                 C (&shrink)[kRows]) {
  Vec<C> top[kRows];
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) top[i] = broadcast<C>(-kInfinity<C>);
  for (int64_t j = 0; j < columns; j += kLanes<C>) {
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) top[i] = max<C>(load(scores + i * scores_row + j), top[i]);
  }
  constexpr int kWhole = (kRows + kLanes<C> - 1) / kLanes<C> * kLanes<C>;
  C risen[kWhole] = {};
  for (int i = 0; i < kRows; ++i) {
    const C tile_largest = factor * largest<C>(top[i]);
    if (!(tile_largest > sums[i].largest)) continue;
    risen[i] = sums[i].largest - tile_largest;
    sums[i].largest = tile_largest;
  }
  for (int i = 0; i < kWhole; i += kLanes<C>) store(risen + i, exp2<C>(load(risen + i)));
  for (int i = 0; i < kRows; ++i) {
    shrink[i] = risen[i];
    sums[i].total *= shrink[i];
  }
}

// Turns scores into weights.
template <int kRows, typename C>
WORDKILN_INLINE void add_weights(C* scores, int64_t scores_row, int64_t columns, SoftmaxSums<C>* sums) {
  Vec<C> totals[kRows];
  C base[kRows];
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    totals[i] = Vec<C>{};
    // Before the first visible score -inf - -inf would be NaN.
    base[i] = sums[i].largest == -kInfinity<C> ? C{0} : sums[i].largest;
  }
  for (int64_t j = 0; j < columns; j += kLanes<C>) {
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const Vec<C> weights = exp2<C>(load(scores + i * scores_row + j) - base[i]);
      totals[i] += weights;
      store(scores + i * scores_row + j, weights);
    }
  }
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) sums[i].total += sum<C>(totals[i]);
}

inline float log2_of(float x) { return __builtin_log2f(x); }

inline double log2_of(double x) { return __builtin_log2(x); }

// The natural log of a softmax's denominator.
template <typename C>
C log_sum(const SoftmaxSums<C>& sums) {
  return static_cast<C>(kLn2) * (sums.largest + log2_of(sums.total));
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
