// C (+)= A B for the few rows of one time step, B packed as [depth][columns of a tile].
//
// A tile has few columns and many rows: 12 rows by 2 vectors read half the weights of 6 rows by 4, and it is the
// weights that come from a far cache. They come in depths that stay in the nearest one while all rows pass; meanwhile
// each group of rows fetches its share of the next depth, so that the far cache is asked evenly. (Not where the weights
// are in the second cache already: there it costs 40 %.)
#pragma once

#include "cpu/kernels/gemm.h"
#include "cpu/kernels/parallel.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// Rows of a tile: times its vectors three quarters of the registers.
template <int kVectors>
constexpr int kProductRows = kVectors == 1 ? kRegisters / 2 : kRegisters * 3 / 4 / kVectors;

// With few accumulators each has to wait for its own last sum: the depth is cut into this many, added at the end.
template <int kRows, int kVectors>
constexpr int kChains = kRows * kVectors >= 8   ? 1
                        : kRows * kVectors >= 4 ? 2
                                                : 4;

// With fewer rows a tile does little but load, and the prefetcher that follows it is quick enough.
constexpr int kFetchingRows = 4;

template <typename T>
struct Product {
  int64_t depth;
  const T* a;
  int64_t a_row;
  const T* b;
  T* c;
  int64_t c_row;
  bool accumulate;
  const T* ahead;  // to fetch from here on, a line after each so many elements
  int64_t ahead_step;
};

template <typename T, int kRows, int kVectors>
void product_tile(const Product<T>& product) {
  const int64_t depth = product.depth, a_row = product.a_row, c_row = product.c_row, step = product.ahead_step;
  const T *a = product.a, *b = product.b, *ahead = product.ahead;
  T* c = product.c;
  constexpr int kWays = kChains<kRows, kVectors>, kWidth = kVectors * kLanes<T>;
  Vec<T> acc[kWays * kRows][kVectors] = {};
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) acc[i][j] = product.accumulate ? load(c + i * c_row + j * kLanes<T>) : Vec<T>{};
  }
  int64_t k = 0;
  for (; k + kWays <= depth; k += kWays, a += kWays, b += kWays * kWidth) {
    WORDKILN_UNROLL
    for (int way = 0; way < kWays; ++way) {
      Vec<T> columns[kVectors];
      WORDKILN_UNROLL
      for (int j = 0; j < kVectors; ++j) {
        columns[j] = load(b + way * kWidth + j * kLanes<T>);
        if constexpr (kRows >= kFetchingRows) {
          __builtin_prefetch(ahead, 0, 2);
          ahead += step;
        }
      }
      WORDKILN_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const Vec<T> x = broadcast(a[i * a_row + way]);
        WORDKILN_UNROLL
        for (int j = 0; j < kVectors; ++j) acc[way * kRows + i][j] += x * columns[j];
      }
    }
  }
  for (; k < depth; ++k, ++a, b += kWidth) {
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      WORDKILN_UNROLL
      for (int j = 0; j < kVectors; ++j) acc[i][j] += broadcast(a[i * a_row]) * load(b + j * kLanes<T>);
    }
  }
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      WORDKILN_UNROLL
      for (int way = 1; way < kWays; ++way) acc[i][j] += acc[way * kRows + i][j];
      store(c + i * c_row + j * kLanes<T>, acc[i][j]);
    }
  }
}

template <typename T>
using ProductTile = void (*)(const Product<T>&);

template <typename T, int kVectors, int... I>
ProductTile<T> product_tile_of(int64_t rows, Indices<I...>) {
  static constexpr ProductTile<T> kTiles[] = {product_tile<T, I + 1, kVectors>...};
  return kTiles[rows - 1];
}

// c[rows, kVectors * kLanes] (+)= a[rows, depth] b[depth, kVectors * kLanes]
template <typename T, int kVectors>
void add_product(int64_t rows, int64_t depth, const T* a, int64_t a_row, const T* b, T* c, int64_t c_row,
                 bool accumulate, bool far) {
  constexpr int64_t kWidth = kVectors * kLanes<T>, kDepth = (int64_t{24} << 10) / (kWidth * sizeof(T));
  constexpr int64_t kRows = kProductRows<kVectors>;
  const int64_t groups = (rows + kRows - 1) / kRows, step = !far ? 0 : groups < kLanes<T> ? kLanes<T> / groups : 1;
  for (int64_t k = 0; k < depth; k += kDepth) {
    const int64_t size = depth - k < kDepth ? depth - k : kDepth;
    for (int64_t group = 0; group < groups; ++group) {
      const Range part = split(rows, group, groups);  // nearly equal: no group of a single row is left over
      const auto tile = product_tile_of<T, kVectors>(part.end - part.begin, typename MakeIndices<kRows>::Type{});
      tile({
          .depth = size,
          .a = a + part.begin * a_row + k,
          .a_row = a_row,
          .b = b + k * kWidth,
          .c = c + part.begin * c_row,
          .c_row = c_row,
          .accumulate = accumulate || k > 0,
          .ahead = far ? b + (k + size) * kWidth + group * size * kVectors * step : b,
          .ahead_step = step,
      });
    }
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
