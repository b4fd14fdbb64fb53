// Between the two products of attention: soft-cap, bias, mask, softmax and dropout of one query's scores in a tile.
// Scores are in base 2, times log2(e): exp2 needs no reduction by ln 2.
#pragma once

#include "common/philox.h"
#include "cpu/kernels/attention.h"
#include "cpu/kernels/math.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr double kLog2E = 1.44269504088896340736, kLn2 = 0.693147180559945309417;

template <typename C>
constexpr C kInfinity = static_cast<C>(__builtin_inf());

// What q is multiplied with so that a product with a key is what ScoreChange takes.
inline double query_scale(const AttentionScores& scores) {
  return scores.soft_cap > 0 ? scores.scale / scores.soft_cap : scores.scale * kLog2E;
}

// What one query's scores become before the softmax. Cheap to build; nothing to do for plain attention.
template <typename T, typename C = Computed<T>>
struct ScoreChange {
  C cap;          // log2(e) * soft_cap, or 0
  const T* bias;  // of key 0, or null
  bool bias_by_key;
  C slope;  // log2(e) * slope
  int64_t position;

  ScoreChange(const AttentionScores& scores, const Row& row, int64_t head, int64_t query)
      : cap(static_cast<C>(scores.soft_cap * kLog2E)),
        bias(static_cast<const T*>(scores.bias)),
        bias_by_key(scores.bias_strides.key != 0),
        slope(scores.slopes == nullptr ? C{0} : static_cast<C>(scores.slopes[head] * kLog2E)),
        position(row.position(query)) {
    const AttentionBiasStrides& s = scores.bias_strides;
    if (bias != nullptr) bias += row.index * s.batch + head * s.head + query * s.row;
  }

  bool any() const { return cap != 0 || bias != nullptr || slope != 0; }

  // The scores of kLanes keys from `key` on, after the cap. Reads bias of the first `keys` only.
  WORDKILN_INLINE Vec<C> add_bias(Vec<C> x, int64_t key, int64_t keys) const {
    if (bias != nullptr) {
      const int lanes = static_cast<int>(clamp(keys - key, 0, kLanes<C>));
      x += static_cast<C>(kLog2E) * (bias_by_key ? load(bias + key, lanes) : broadcast<C>(widen(*bias)));
    }
    if (slope != 0) {
      Vec<C> distance = broadcast(static_cast<C>(key - position));
      for (int i = 0; i < kLanes<C>; ++i) distance[i] += static_cast<C>(i);
      x -= slope * (distance < C{0} ? -distance : distance);
    }
    return x;
  }

  // Of `columns` keys from `key` on; the row has `keys`.
  void apply(C* scores, int64_t columns, int64_t key, int64_t keys) const {
    for (int64_t j = 0; j < columns; j += kLanes<C>) {
      Vec<C> x = load(scores + j);
      if (cap != 0) x = cap * tanh<C>(x);
      store(scores + j, add_bias(x, key + j, keys));
    }
  }
};

template <typename C>
void fill(C* x, Range range, C value) {
  for (int64_t i = range.begin; i < range.end; ++i) x[i] = value;
}

// Turns one query's scores in a tile of `columns` keys, of which it sees `seen`, into weights. Returns the factor by
// which what was summed before must shrink.
template <typename C>
WORDKILN_INLINE C online_softmax(C* scores, Range seen, int64_t columns, C& largest_so_far, C& total) {
  fill(scores, {0, seen.begin}, -kInfinity<C>);
  fill(scores, {seen.end, columns}, -kInfinity<C>);
  Vec<C> top = broadcast<C>(-kInfinity<C>);
  for (int64_t j = 0; j < columns; j += kLanes<C>) top = max<C>(load(scores + j), top);
  const C tile_largest = largest<C>(top);
  const C next = tile_largest > largest_so_far ? tile_largest : largest_so_far;
  // Before the first visible score -inf - -inf would be NaN.
  const C base = next == -kInfinity<C> ? C{0} : next;
  const C shrink = largest_so_far == next ? C{1} : exp2<C>(broadcast<C>(largest_so_far - base))[0];
  Vec<C> sums = {};
  for (int64_t j = 0; j < columns; j += kLanes<C>) {
    const Vec<C> weights = exp2<C>(load(scores + j) - base);
    sums += weights;
    store(scores + j, weights);
  }
  largest_so_far = next;
  total = total * shrink + sum<C>(sums);
  return shrink;
}

// The natural log of a softmax's denominator.
template <typename C>
C log_sum(C largest, C total) {
  return static_cast<C>(kLn2) * (largest + static_cast<C>(__builtin_log2(total)));
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

  // factors[j] for the kPanel keys from `key`, a multiple of kPanel. Counter c of a query's panel gives the words of
  // keys c, c + 16, c + 32 and c + 48, so that every width of vector draws the same.
  template <typename C>
  void draw(int64_t query, int64_t key, C* factors) const {
    constexpr int64_t kCounters = kPanel / 4;
    constexpr int64_t kWords = WORDKILN_VECTOR_BYTES / 4;
    for (int64_t c = 0; c < kCounters; c += kWords) {
      Words counter[4] = {Words{}, static_cast<uint32_t>(query) - Words{}, head - Words{}, offset - Words{}};
      for (int i = 0; i < kWords; ++i) {
        counter[0][i] = static_cast<uint32_t>(key / kPanel * kCounters + c) + static_cast<uint32_t>(i);
      }
      philox4x32(counter, seed, [](Words x, uint32_t y, Words& high) { return multiply_wide(x, y, high); });
      for (int part = 0; part < 4; ++part) {
        for (int i = 0; i < kWords; ++i) {
          factors[part * kCounters + c + i] = counter[part][i] < least ? C{0} : static_cast<C>(factor);
        }
      }
    }
  }

  // Drops among the weights of `columns` keys from `key`, a multiple of kPanel.
  template <typename C>
  void apply(C* weights, int64_t query, int64_t key, int64_t columns) const {
    C factors[kPanel];
    for (int64_t panel = 0; panel < columns; panel += kPanel) {
      draw(query, key + panel, factors);
      for (int64_t j = 0; j < smaller(kPanel, columns - panel); ++j) weights[panel + j] *= factors[j];
    }
  }
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
