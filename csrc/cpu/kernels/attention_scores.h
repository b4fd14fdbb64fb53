// Between the two products of attention: soft-cap, bias, mask, softmax and dropout of one query's scores in a tile.
// Scores are in base 2, times log2(e): exp2 needs no reduction by ln 2.
#pragma once

#include "cpu/kernels/attention.h"
#include "cpu/kernels/dropout_words.h"
#include "cpu/kernels/softmax.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// What q is multiplied with so that a product with a key is what ScoreChange takes.
inline double query_scale(const AttentionScores& scores) {
  return scores.soft_cap > 0 ? scores.scale / scores.soft_cap : scores.scale * kLog2E;
}

// What the scores of a query head become before the softmax.
template <typename T, typename C = Computed<T>>
struct ScoreChange {
  const Row& row;
  C cap;          // log2(e) * soft_cap, or 0
  const T* bias;  // of query 0 and key 0, or null
  AttentionBiasStrides bias_strides;
  C slope;  // log2(e) * slope

  ScoreChange(const AttentionScores& scores, const Row& row_, int64_t head)
      : row(row_),
        cap(static_cast<C>(scores.soft_cap * kLog2E)),
        bias(static_cast<const T*>(scores.bias)),
        bias_strides(scores.bias_strides),
        slope(scores.slopes == nullptr ? C{0} : static_cast<C>(scores.slopes[head] * kLog2E)) {
    if (bias != nullptr) bias += row.index * bias_strides.batch + head * bias_strides.head;
  }

  bool any() const { return cap != 0 || bias != nullptr || slope != 0; }

  // To a query's scores, after the cap, of kLanes keys from `key` on.
  WORDKILN_INLINE Vec<C> add_bias(Vec<C> x, int64_t query, int64_t key) const {
    if (bias != nullptr) {
      const T* own = bias + query * bias_strides.row;
      const int lanes = static_cast<int>(clamp(row.keys - key, 0, kLanes<C>));
      x += static_cast<C>(kLog2E) * (bias_strides.key != 0 ? load(own + key, lanes) : broadcast<C>(widen(*own)));
    }
    if (slope != 0) {
      const Vec<C> distance =
          __builtin_convertvector(lane_numbers<C>(), Vec<C>) + static_cast<C>(key - row.position(query));
      x -= slope * (distance < C{0} ? -distance : distance);
    }
    return x;
  }

  // To a query's scores of `columns` keys from `key` on.
  void apply(C* scores, int64_t columns, int64_t query, int64_t key) const {
    for (int64_t j = 0; j < columns; j += kLanes<C>) {
      Vec<C> x = load(scores + j);
      if (cap != 0) x = cap * tanh<C>(x);
      store(scores + j, add_bias(x, query, key + j));
    }
  }
};

template <typename C>
void fill(C* x, int64_t count, C value) {
  for (int64_t i = 0; i < count; ++i) x[i] = value;
}

// x[i][j] = value for the j of whole vectors up to `columns` that are not in seen[i]. Rows see a little further each,
// as those of a tile of queries do: only the vectors at their edges are touched.
template <int kRows, typename C>
WORDKILN_INLINE void mask(C* x, int64_t x_row, const Range (&seen)[kRows], int64_t columns, C value) {
  typedef typename Simd<C>::Int Int;
  const auto edges = [=](int64_t j) {
    const Int at = lane_numbers<C>();
    for (int i = 0; i < kRows; ++i) {
      const Int begin = Int{} + static_cast<int>(seen[i].begin - j), end = Int{} + static_cast<int>(seen[i].end - j);
      C* own = x + i * x_row + j;
      store(own, ((at >= begin) & (at < end)) ? load(own) : broadcast(value));
    }
  };
  for (int64_t j = 0; j < seen[kRows - 1].begin; j += kLanes<C>) edges(j);
  for (int64_t j = seen[0].end / kLanes<C> * kLanes<C>; j < columns; j += kLanes<C>) edges(j);
}

template <typename C>
WORDKILN_INLINE void scale_row(C* x, int64_t width, C factor) {
  for (int64_t d = 0; d < width; d += kLanes<C>) store(x + d, factor * load(x + d));
}

// Which weights of a query are dropped: a function of the seed, the query and the key alone.
struct Dropout {
  uint32_t least;  // a word below it drops its key
  double factor;   // of the weights that stay
  uint64_t seed;
  uint32_t head, offset;

  Dropout(const AttentionScores& scores, int64_t row, int64_t heads, int64_t head_)
      : least(static_cast<uint32_t>(scores.dropout * 4294967296.0)),
        factor(1 / (1 - scores.dropout)),
        seed(scores.seed),
        head(static_cast<uint32_t>(row * heads + head_)),
        offset(scores.offset) {}

  bool any() const { return least != 0; }

  // factors[j] for the kPanel keys from `key`, a multiple of kPanel.
  template <typename C>
  void draw(int64_t query, int64_t key, C* factors) const {
    uint32_t words[kDrawn];
    draw_words(seed, offset, head, query, key, words);
    for (int64_t j = 0; j < kPanel; ++j) factors[j] = words[j] < least ? C{0} : static_cast<C>(factor);
  }

  // Drops among the weights of `columns` keys, whole vectors, from `key`, a multiple of kPanel.
  template <typename T, typename C = Computed<T>>
  void apply(T* weights, int64_t query, int64_t key, int64_t columns) const {
    C factors[kPanel];
    for (int64_t panel = 0; panel < columns; panel += kPanel) {
      draw(query, key + panel, factors);
      for (int64_t j = 0; j < smaller(kPanel, columns - panel); j += kLanes<C>) {
        store(weights + panel + j, load(weights + panel + j) * load(factors + j));
      }
    }
  }
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
