// A tile of rows in shared memory, and its products. Of 16-bit types they are the tensor cores' (ldmatrix reads the
// tile); those of float32 are in float_products.h, with the same sums in the same lanes.
#pragma once

#include "cuda/attention/params.h"

namespace wordkiln::cuda {

// A row's 16-byte chunks are swapped by the row's number, so that eight rows at the same column lie in different banks.
template <typename T, int kRows, int kColumns>
struct alignas(128) SharedTile {
  static constexpr int kPart = 16 / sizeof(T);      // elements of a chunk
  static constexpr int kChunks = kColumns / kPart;  // of a row
  static_assert(kChunks >= 4 && (kChunks & (kChunks - 1)) == 0);

  T data[kRows * kColumns];

  WORDKILN_DEVICE T* at(int row, int column) {
    // Rows of 64 bytes: two of them share the banks.
    const int swap = kChunks >= 8 ? row % 8 : row / 2 % 4;
    return data + row * kColumns + ((column / kPart) ^ swap) * kPart + column % kPart;
  }

  // Starts to copy the rows from `first` to `rows` of `from`; zeros beyond them and beyond `columns`. All threads of
  // the block, or the lanes of a warp, take part.
  template <int kThreads>
  WORDKILN_DEVICE void load(Matrix<const T> from, int first, int rows, int columns) {
    constexpr int kCopies = kRows * kChunks / kThreads, kStep = kThreads / kChunks;
    static_assert(kCopies * kThreads == kRows * kChunks);
    const int thread = kThreads == 32 ? device::lane() : device::thread_index();
    const int own = thread / kChunks, column = thread % kChunks * kPart;
    const int left = column < columns ? rows - first - own : 0;
    // One address that goes on: computed for each copy beforehand they would fill the registers. Of the tile's
    // addresses, too, the compiler would keep one a copy; rows whose swap is the same are constants apart.
    constexpr int kPeriod = kStep < 8 ? 8 / kStep : 1;
    static_assert(kPeriod * kStep % 8 == 0);
    const T* source = from.data + (static_cast<int64_t>(first) + own) * from.row + column;
    WORDKILN_UNROLL
    for (int i = 0; i < kCopies; ++i, source += kStep * from.row) {
      const bool valid = i * kStep < left;
      T* to = at(own + i % kPeriod * kStep, column) + i / kPeriod * kPeriod * kStep * kColumns;
      device::cp_async16(to, source, valid);
    }
  }

  // This lane's row in the A fragment of the first 16 rows and columns, for load_a; and so on.
  WORDKILN_DEVICE int lane_a() { return index(device::lane() % 16, device::lane() / 16 * 8); }
  WORDKILN_DEVICE int lane_b_rows() {
    return index(device::lane() % 8 + device::lane() / 16 * 8, device::lane() / 8 % 2 * 8);
  }
  WORDKILN_DEVICE int lane_b() { return lane_a(); }

  // The A fragment of rows `row` to `row` + 16 and columns `column` to `column` + 16, multiples of 16.
  WORDKILN_DEVICE void load_a(uint32_t (&a)[4], int lane_a, int row, int column) {
    device::ldmatrix_x4(a, from(lane_a, row, column));
  }

  // B fragments of the transposed tile: columns of B are 16 rows of the tile from `row` on, rows of B 16 columns of it.
  // Words 0 and 1 are the fragment of the first eight, 2 and 3 that of the others.
  WORDKILN_DEVICE void load_b_rows(uint32_t (&b)[4], int lane_b_rows, int row, int column) {
    device::ldmatrix_x4(b, from(lane_b_rows, row, column));
  }

  // B fragments of the tile as it lies: rows of B are 16 rows of the tile, columns 16 columns of it; words as above.
  WORDKILN_DEVICE void load_b(uint32_t (&b)[4], int lane_b, int row, int column) {
    device::ldmatrix_x4_trans(b, from(lane_b, row, column));
  }

 private:
  WORDKILN_DEVICE int index(int row, int column) { return static_cast<int>(at(row, column) - data); }

  // As rows are powers of two long, a lane's swap and a column that is a multiple of 16 add up by an exclusive or: one
  // instruction where at() needs five.
  WORDKILN_DEVICE T* from(int lane_index, int row, int column) { return data + (lane_index ^ column) + row * kColumns; }
};

// body(i, n, e) for each of a lane's sums[i][n][e].
template <int kTiles, int kColumnTiles, typename Body>
WORDKILN_DEVICE void for_sums(Body body) {
  WORDKILN_UNROLL
  for (int i = 0; i < kTiles; ++i) {
    WORDKILN_UNROLL
    for (int n = 0; n < kColumnTiles; ++n) {
      WORDKILN_UNROLL
      for (int e = 0; e < 4; ++e) body(i, n, e);
    }
  }
}

// sums[i][n] += rows of `left` by rows of `right`: kTiles times 16 rows from `row` on, 8 kColumnTiles rows of `right`.
// A lane holds of sums[i][n] row lane / 4 in words 0 and 1, the eighth behind it in 2 and 3, and columns lane % 4 * 2 +
// 0 and 1. kAtOnce: of the 16 columns that are one turn so many are unrolled. A smaller number keeps the compiler from
// fetching fragments far ahead, where it has no registers for them.
template <int kAtOnce = 16, typename T, int kRows, int kOtherRows, int kDepth, int kTiles, int kColumnTiles>
WORDKILN_DEVICE void multiply_rows(SharedTile<T, kRows, kDepth>& left, int row,
                                   SharedTile<T, kOtherRows, kDepth>& right, float (&sums)[kTiles][kColumnTiles][4]) {
  const int lane_a = device::recomputed(left.lane_a()), lane_b = device::recomputed(right.lane_b_rows());
  WORDKILN_UNROLL_BY(kAtOnce)
  for (int depth = 0; depth < kDepth; depth += 16) {
    uint32_t a[kTiles][4];
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles; ++i) left.load_a(a[i], lane_a, row + i * 16, depth);
    WORDKILN_UNROLL
    for (int n = 0; n < kColumnTiles; n += 2) {
      uint32_t b[4];
      right.load_b_rows(b, lane_b, n * 8, depth);
      WORDKILN_UNROLL
      for (int i = 0; i < kTiles; ++i) {
        device::mma_m16n8k16<T>(sums[i][n], a[i], b[0], b[1]);
        device::mma_m16n8k16<T>(sums[i][n + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// sums[i][n] += weights[i] by `right` from `column` on. What one product put out is, rounded to T, the other's left
// side as it lies in the registers.
template <typename T, int kDepth, int kColumns, int kTiles, int kDepthTiles, int kColumnTiles>
WORDKILN_DEVICE void multiply_weights(const float (&weights)[kTiles][kDepthTiles][4],
                                      SharedTile<T, kDepth, kColumns>& right, int column,
                                      float (&sums)[kTiles][kColumnTiles][4]) {
  static_assert(kDepthTiles * 8 == kDepth);
  const int lane_b = device::recomputed(right.lane_b());
  WORDKILN_UNROLL
  for (int k = 0; k < kDepthTiles; k += 2) {
    uint32_t a[kTiles][4];
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      WORDKILN_UNROLL
      for (int word = 0; word < 4; ++word) {
        const float (&from)[4] = weights[i][k + word / 2];
        a[i][word] = device::pack<T>(from[word % 2 * 2], from[word % 2 * 2 + 1]);
      }
    }
    WORDKILN_UNROLL
    for (int n = 0; n < kColumnTiles; n += 2) {
      uint32_t b[4];
      right.load_b(b, lane_b, k * 8, column + n * 8);
      WORDKILN_UNROLL
      for (int i = 0; i < kTiles; ++i) {
        device::mma_m16n8k16<T>(sums[i][n], a[i], b[0], b[1]);
        device::mma_m16n8k16<T>(sums[i][n + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// The column of word `e` (0 or 1; of the row behind: 2 or 3) of sums[i][n] that multiply_weights made. Of float32 a
// lane holds four neighbours, which are read together: those of n and n + 1.
template <typename T>
WORDKILN_DEVICE int sum_column(int n, int e) {
  const int quarter = device::lane() % 4;
  return sizeof(T) == 4 ? n / 2 * 16 + quarter * 4 + n % 2 * 2 + e % 2 : n * 8 + quarter * 2 + e % 2;
}

// Two neighbours.
template <typename T>
WORDKILN_DEVICE void store_pair(T* at, float first, float second) {
  if constexpr (sizeof(T) == 4) {
    at[0] = first;
    at[1] = second;
  } else {
    *reinterpret_cast<uint32_t*>(at) = device::pack<T>(first, second);
  }
}

// Writes rows of `tile` from `row` on, 16 kTiles of them, which no other warp uses: factors[i][h] times sums. Then
// copies those before `rows` and `columns` to global memory in whole chunks.
template <typename T, int kRows, int kColumns, int kTiles>
WORDKILN_DEVICE void store_rows(SharedTile<T, kRows, kColumns>& tile, int row,
                                const float (&sums)[kTiles][kColumns / 8][4], const float (&factors)[kTiles][2],
                                const Matrix<T>& to, int first, int rows, int columns) {
  const int lane = device::lane();
  device::sync_warp();  // other lanes may still read what is overwritten
  WORDKILN_UNROLL
  for (int i = 0; i < kTiles; ++i) {
    WORDKILN_UNROLL
    for (int n = 0; n < kColumns / 8; ++n) {
      WORDKILN_UNROLL
      for (int h = 0; h < 2; ++h) {
        store_pair(tile.at(row + i * 16 + h * 8 + lane / 4, sum_column<T>(n, 0)), factors[i][h] * sums[i][n][2 * h],
                   factors[i][h] * sums[i][n][2 * h + 1]);
      }
    }
  }
  device::sync_warp();
  using Tile = SharedTile<T, kRows, kColumns>;
  WORDKILN_UNROLL
  for (int i = 0; i < kTiles * 16 * Tile::kChunks / 32; ++i) {
    const int chunk = i * 32 + lane, own = row + chunk / Tile::kChunks, column = chunk % Tile::kChunks * Tile::kPart;
    if (first + own < rows && column < columns) {
      *reinterpret_cast<device::Chunk*>(to[first + own] + column) =
          *reinterpret_cast<const device::Chunk*>(tile.at(own, column));
    }
  }
}

}  // namespace wordkiln::cuda
