// C (+)= A B on tiles that fit in registers: kTileRows rows of C times kTileVectors vectors of columns.
#pragma once

#include "cpu/kernels/simd.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVectors = kRegisters == 32 ? 4 : 2;

// Element (i, k) of A is data[i * row + k * depth].
template <typename T>
struct MatrixA {
  const T* data;
  int64_t row, depth;
};

// acc[i][j] += sum over k of A(i, k) * b[k * b_row + j * kLanes ...]
template <typename T, int kRows, int kVectors, typename B = T>
WORDKILN_INLINE void accumulate_tile(int64_t depth, MatrixA<T> a, const B* b, int64_t b_row,
                                     Vec<T> (&acc)[kRows][kVectors]) {
  const T* a_column = a.data;
  for (int64_t k = 0; k < depth; ++k, a_column += a.depth, b += b_row) {
    Vec<T> columns[kVectors];
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) columns[j] = load(b + j * kLanes<T>);
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const Vec<T> x = broadcast(a_column[i * a.row]);
      WORDKILN_UNROLL
      for (int j = 0; j < kVectors; ++j) acc[i][j] += x * columns[j];
    }
  }
}

template <typename T, int kRows, int kVectors, typename B>
void multiply_tile(int64_t depth, MatrixA<T> a, const B* b, int64_t b_row, T* c, int64_t c_row, bool accumulate) {
  Vec<T> acc[kRows][kVectors];
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) acc[i][j] = accumulate ? load(c + i * c_row + j * kLanes<T>) : Vec<T>{};
  }
  accumulate_tile<T, kRows, kVectors>(depth, a, b, b_row, acc);
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) store(c + i * c_row + j * kLanes<T>, acc[i][j]);
  }
}

template <typename T, typename B>
using TileFunction = void (*)(int64_t, MatrixA<T>, const B*, int64_t, T*, int64_t, bool);

#define WORDKILN_TILES(rows)                                                                                \
  {multiply_tile<T, rows, 1, B>, multiply_tile<T, rows, 2, B>, multiply_tile<T, rows, kTileVectors - 1, B>, \
   multiply_tile<T, rows, kTileVectors, B>}

// C[rows, columns] (+)= A[rows, depth] B[depth, columns]. columns: a multiple of kLanes, also readable and writable
// there. No blocking of depth: B's block should lie in a near cache. B may be stored in another type than T.
template <typename T, typename B = T>
void multiply(int64_t rows, int64_t columns, int64_t depth, MatrixA<T> a, const B* b, int64_t b_row, T* c,
              int64_t c_row, bool accumulate) {
  static constexpr TileFunction<T, B> kTiles[kTileRows][4] = {WORDKILN_TILES(1), WORDKILN_TILES(2), WORDKILN_TILES(3),
                                                              WORDKILN_TILES(4), WORDKILN_TILES(5), WORDKILN_TILES(6)};
  constexpr int64_t kWidth = kTileVectors * kLanes<T>;
  for (int64_t j = 0; j < columns; j += kWidth) {
    const int64_t vectors = (columns - j < kWidth ? columns - j : kWidth) / kLanes<T>;
    for (int64_t i = 0; i < rows; i += kTileRows) {
      const int64_t height = rows - i < kTileRows ? rows - i : kTileRows;
      const MatrixA<T> part = {a.data + i * a.row, a.row, a.depth};
      kTiles[height - 1][vectors - 1](depth, part, b + j, b_row, c + i * c_row + j, c_row, accumulate);
    }
  }
}

#undef WORDKILN_TILES

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
