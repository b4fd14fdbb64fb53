// What both ways of a step with layer norms or zoneout share: statistics of a row, and what zoneout keeps. A thread has
// whole rows, and goes through each a few times while it is in the first cache.
#pragma once

#include "cpu/kernels/dropout_words.h"
#include "cpu/kernels/math.h"
#include "cpu/kernels/parallel.h"
#include "wordkiln/recurrent_cell.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// `from` elements behind the address; null stays null: an array that the recurrence does not have.
template <typename T>
WORDKILN_INLINE T* behind(void* address, int64_t from) {
  return address == nullptr ? nullptr : static_cast<T*>(address) + from;
}

template <typename T>
WORDKILN_INLINE const T* behind(const void* address, int64_t from) {
  return address == nullptr ? nullptr : static_cast<const T*>(address) + from;
}

// The first `lanes` elements; the others become 0.
template <typename T>
WORDKILN_INLINE Vec<T> first(Vec<T> x, int lanes) {
  using Int = typename Simd<T>::Int;
  return lane_numbers<T>() < Int{} + lanes ? x : Vec<T>{};
}

template <typename T>
struct RowStatistics {
  T mean, scale;
};

// Of a row; the squares are those of differences from the mean, as the mean's own square would drown small ones.
template <typename T>
WORDKILN_INLINE RowStatistics<T> statistics_of(const T* x, int64_t width, double eps) {
  Vec<T> total = {}, squares = {};
  for_vectors<T>(0, width, [&](int64_t j, int lanes) { total += load(x + j, lanes); });
  const T mean = sum<T>(total) / static_cast<T>(width);
  for_vectors<T>(0, width, [&](int64_t j, int lanes) {
    const Vec<T> difference = first<T>(load(x + j, lanes) - mean, lanes);
    squares += difference * difference;
  });
  const T variance = sum<T>(squares) / static_cast<T>(width);
  return {mean, T{1} / static_cast<T>(__builtin_sqrt(variance + static_cast<T>(eps)))};
}

// The share of its value before the step that each unit of a row keeps. which: 0 for h, 1 for c.
template <typename T>
class Kept {
 public:
  WORDKILN_INLINE Kept(const Zoneout& zoneout, int64_t step, int64_t row, int which)
      : zoneout_(zoneout),
        share_(which == 0 ? zoneout.h : zoneout.c),
        step_(step),
        head_(static_cast<uint32_t>(2 * row + which)) {}

  // Of kDrawn units from `unit`, a multiple of kDrawn.
  WORDKILN_INLINE void draw(int64_t unit) {
    if (!zoneout_.draws || share_ == 0) {
      for (int64_t j = 0; j < kDrawn; ++j) shares_[j] = static_cast<T>(share_);
      return;
    }
    uint32_t words[kDrawn];
    draw_words(zoneout_.seed, zoneout_.offset, head_, step_, unit, words);
    const uint32_t below = static_cast<uint32_t>(share_ * 4294967296.0);
    for (int64_t j = 0; j < kDrawn; ++j) shares_[j] = words[j] < below ? T{1} : T{0};
  }

  // Of the vector at `unit`, in what was drawn last.
  WORDKILN_INLINE Vec<T> at(int64_t unit) const { return load(shares_ + unit % kDrawn); }

 private:
  const Zoneout& zoneout_;
  const double share_;
  const int64_t step_;
  const uint32_t head_;
  T shares_[kDrawn];
};

// body(unit, lanes) for each vector of `hidden` units, for which `kept` has been drawn.
template <typename T, typename Body>
WORDKILN_INLINE void for_kept(Kept<T>& kept, int64_t hidden, Body body) {
  for (int64_t unit = 0; unit < hidden; unit += kDrawn) {
    kept.draw(unit);
    for_vectors<T>(unit, unit + kDrawn < hidden ? unit + kDrawn : hidden, body);
  }
}

template <typename T>
WORDKILN_INLINE Vec<T> mix(Vec<T> share, Vec<T> before, Vec<T> after) {
  return share * before + (T{1} - share) * after;
}

template <typename T>
WORDKILN_INLINE void clear(T* x, int64_t width) {
  for_vectors<T>(0, width, [&](int64_t j, int lanes) { store(x + j, Vec<T>{}, lanes); });
}

// body(row) for each row of the batch; `operations` on each of its units.
template <typename Body>
void for_rows(const RecurrentSizes& sizes, double operations, Body body) {
  const double work = operations * static_cast<double>(sizes.batch) * static_cast<double>(sizes.hidden);
  parallel_threads(threads_for(work), [&](int thread, int threads) {
    const Range rows = split(sizes.batch, thread, threads);
    for (int64_t row = rows.begin; row < rows.end; ++row) body(row);
  });
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
