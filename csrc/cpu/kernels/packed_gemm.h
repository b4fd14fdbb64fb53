// C (+)= A B with B in packed panels: kPanel columns, [depth][kPanel], contiguous and zero-filled at the right.
#pragma once

#include "cpu/kernels/gemm.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename T>
constexpr int kPanel = kTileVectors * kLanes<T>;

// C (+)= acc, `columns` of the panel wide.
template <typename T, int kRows>
WORDKILN_INLINE void finish_tile(const Vec<T> (&acc)[kRows][kTileVectors], T* c, int64_t c_row, int64_t columns,
                                 bool accumulate) {
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kTileVectors; ++j) {
      T* to = c + i * c_row + j * kLanes<T>;
      const int64_t left = columns - j * kLanes<T>;
      if (left >= kLanes<T>) {
        store(to, accumulate ? load(to) + acc[i][j] : acc[i][j]);
      } else if (left > 0) {
        const int lanes = static_cast<int>(left);
        store(to, accumulate ? load(to, lanes) + acc[i][j] : acc[i][j], lanes);
      }
    }
  }
}

// One tile of C, `columns` of the panel wide. C is touched after the product, so that its prefetch has time. A comes
// as scalars: a struct on the stack would be read by one wide load, which waits until all earlier stores, those of the
// last tile of C included, have reached the cache (it cost 5 % of the vocabulary loss).
template <typename T, int kRows>
void panel_tile(const T* a, int64_t a_row, int64_t a_depth, int64_t depth, const T* panel, T* c, int64_t c_row,
                int64_t columns, bool accumulate) {
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kTileVectors; ++j) __builtin_prefetch(c + i * c_row + j * kLanes<T>, 1);
  }
  Vec<T> acc[kRows][kTileVectors] = {};
  accumulate_tile<T, kRows, kTileVectors>(depth, {a, a_row, a_depth}, panel, kPanel<T>, acc);
  finish_tile<T, kRows>(acc, c, c_row, columns, accumulate);
}

// C[rows, columns] (+)= A[rows, depth] of one panel; columns: at most kPanel.
template <typename T>
void multiply_panel(int64_t rows, int64_t depth, MatrixA<T> a, const T* panel, T* c, int64_t c_row, int64_t columns,
                    bool accumulate) {
  static constexpr void (*kTiles[])(const T*, int64_t, int64_t, int64_t, const T*, T*, int64_t, int64_t, bool) = {
      panel_tile<T, 1>, panel_tile<T, 2>, panel_tile<T, 3>, panel_tile<T, 4>, panel_tile<T, 5>};
  int64_t i = 0;
  for (; i + kTileRows <= rows; i += kTileRows) {
    panel_tile<T, kTileRows>(a.data + i * a.row, a.row, a.depth, depth, panel, c + i * c_row, c_row, columns,
                             accumulate);
  }
  if (i == rows) return;
  kTiles[rows - i - 1](a.data + i * a.row, a.row, a.depth, depth, panel, c + i * c_row, c_row, columns, accumulate);
}

// The panel of B[k][j] = from[j * from_row + k], of `columns` columns.
template <typename T>
void pack_transposed(const T* from, int64_t from_row, int64_t columns, int64_t depth, T* panel) {
  for (int64_t j = 0; j < kPanel<T>; j += kLanes<T>) {
    const int64_t left = columns > j ? columns - j : 0;
    transpose(left > 0 ? from + j * from_row : from, from_row, left, depth, panel + j, kPanel<T>);
  }
}

// The panel of B[k][j] = from[k * from_row + j], of `columns` columns.
template <typename T>
void pack_rows(const T* from, int64_t from_row, int64_t columns, int64_t depth, T* panel) {
  for (int64_t k = 0; k < depth; ++k, from += from_row, panel += kPanel<T>) {
    for (int64_t j = 0; j < kPanel<T>; j += kLanes<T>) {
      const int64_t left = columns - j;
      const int lanes = left <= 0 ? 0 : left < kLanes<T> ? static_cast<int>(left) : kLanes<T>;
      store(panel + j, load(from + j, lanes));
    }
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
