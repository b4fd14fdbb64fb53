// What the attention passes share: who sees what, and rows and keys packed for the products. T is the type of the
// elements in memory, C the one they are computed in: all scratch is of C.
#pragma once

#include "cpu/kernels/gemm.h"
#include "cpu/kernels/parallel.h"
#include "wordkiln/attention.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kPanel = 64;  // keys that are packed together; a multiple of every tile's width

inline int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

inline int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// A head size in elements of padded rows.
template <typename C>
int64_t padded(int64_t head_size) {
  return round_up(head_size, kLanes<C>);
}

// The next part of some memory; every part starts on a cache line.
template <typename C>
C* take(C*& memory, int64_t count) {
  C* part = memory;
  memory += round_up(count, kPanel);
  return part;
}

template <typename C>
C* take(char*& memory, int64_t count) {
  C* part = reinterpret_cast<C*>(memory);
  memory += round_up(count * static_cast<int64_t>(sizeof(C)), 64);
  return part;
}

// One row of the batch.
struct Row {
  int64_t index, first_query, queries, first_key, keys;
  bool causal;
  int64_t window;

  Row(const AttentionSizes& sizes, const AttentionScores& scores, int64_t row)
      : index(row),
        first_query(0),
        queries(sizes.queries),
        first_key(0),
        keys(sizes.keys),
        causal(scores.causal),
        window(scores.window) {
    if (scores.query_offsets != nullptr) {
      first_query = scores.query_offsets[row];
      queries = scores.query_offsets[row + 1] - first_query;
      first_key = scores.key_offsets[row];
      keys = scores.key_offsets[row + 1] - first_key;
    } else if (scores.key_lengths != nullptr) {
      keys = scores.key_lengths[row];
    }
  }

  // The key at which a query stands; it may be before the first.
  int64_t position(int64_t query) const { return query + keys - queries; }

  // The keys that a query sees.
  Range visible(int64_t query) const {
    const int64_t at = position(query);
    const int64_t last = causal ? at + 1 : window > 0 && window < keys - at ? at + window : keys;
    const int64_t end = clamp(last, 0, keys);
    return {window > 0 ? clamp(at - window + 1, 0, end) : 0, end};
  }

  // The keys that some of these queries see, from a whole panel on.
  Range visible(Range queries_) const {
    if (queries_.begin >= queries_.end) return {0, 0};
    const int64_t end = visible(queries_.end - 1).end;
    return {smaller(visible(queries_.begin).begin, end) / kPanel * kPanel, end};
  }
};

// Sizes with the most queries and the most keys that a row has: what scratch must hold.
inline AttentionSizes largest_row(AttentionSizes sizes, const AttentionScores& scores) {
  if (scores.query_offsets == nullptr) return sizes;
  int64_t queries = 0, keys = 0;
  for (int64_t i = 0; i < sizes.batch; ++i) {
    const Row row(sizes, scores, i);
    queries = row.queries > queries ? row.queries : queries;
    keys = row.keys > keys ? row.keys : keys;
  }
  sizes.queries = queries;
  sizes.keys = keys;
  return sizes;
}

// The part of `range` in a tile of `columns` keys from `key` on, as columns.
inline Range within(Range range, int64_t key, int64_t columns) {
  return {clamp(range.begin - key, 0, columns), clamp(range.end - key, 0, columns)};
}

// Rows of a tensor of one row of the batch and one head.
template <typename T>
struct Matrix {
  T* data;
  int64_t row;

  T* operator[](int64_t i) const { return data + i * row; }
};

template <typename T>
Matrix<const T> head_of(const void* x, const AttentionStrides& strides, int64_t batch, int64_t head, int64_t first) {
  return {static_cast<const T*>(x) + batch * strides.batch + head * strides.head + first * strides.row, strides.row};
}

template <typename T>
Matrix<T> head_of(void* x, const AttentionStrides& strides, int64_t batch, int64_t head, int64_t first) {
  return {static_cast<T*>(x) + batch * strides.batch + head * strides.head + first * strides.row, strides.row};
}

// Strides of a contiguous [B, H, rows, columns]; packed rows of the batch lie in one another's continuation.
inline AttentionStrides contiguous(const AttentionScores& scores, int64_t heads, int64_t rows, int64_t columns) {
  return {scores.query_offsets == nullptr ? heads * rows * columns : 0, rows * columns, columns};
}

// to[row][0..to_row) = scale * from[row][0..head_size), 0 in the padding.
template <typename T, typename C = Computed<T>>
void copy_rows(Matrix<const T> from, int64_t rows, int64_t head_size, C scale, C* to, int64_t to_row) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t d = 0; d < to_row; d += kLanes<C>) {
      store(to + i * to_row + d, scale * load(from[i] + d, static_cast<int>(smaller(head_size - d, kLanes<C>))));
    }
  }
}

// to[row][0..head_size) = scale * from[row][0..head_size).
template <typename T, typename C = Computed<T>>
void write_rows(const C* from, int64_t from_row, int64_t rows, int64_t head_size, C scale, Matrix<T> to) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t d = 0; d < head_size; d += kLanes<C>) {
      store(to[i] + d, scale * load(from + i * from_row + d), static_cast<int>(smaller(head_size - d, kLanes<C>)));
    }
  }
}

// Keys as the right side of a product with queries: [key / kPanel][head_size][kPanel], 0 beyond the last key up to a
// whole vector.
template <typename T, typename C = Computed<T>>
void pack_keys(Matrix<const T> from, int64_t keys, int64_t head_size, C* to) {
  for (int64_t key = 0; key < keys; key += kLanes<C>) {
    C* panel = to + key / kPanel * kPanel * head_size + key % kPanel;
    transpose(from[key], from.row, keys - key, head_size, panel, kPanel);
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
