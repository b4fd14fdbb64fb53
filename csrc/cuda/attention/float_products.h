// Products of float32 tiles, which tensor cores would round to 10 bits: lanes multiply what they hold themselves, each
// number that they read from shared memory for several sums.
#pragma once

#include "cuda/attention/shared_tile.h"

namespace wordkiln::cuda {

struct alignas(16) Quad {
  float x[4];
};

// As multiply_rows of 16-bit tiles. In each quarter of a row a lane reads two rows of `left` and two of every eight of
// `right`: 2 + 2 kColumnTiles reads for 16 kColumnTiles products each. kAtOnce is not used.
template <int kAtOnce = 16, int kRows, int kOtherRows, int kDepth, int kTiles, int kColumnTiles>
WORDKILN_DEVICE void multiply_rows(SharedTile<float, kRows, kDepth>& left, int row,
                                   SharedTile<float, kOtherRows, kDepth>& right,
                                   float (&sums)[kTiles][kColumnTiles][4]) {
  const int lane = device::recomputed(device::lane());
  for (int depth = 0; depth < kDepth; depth += 4) {
    Quad a[kTiles][2];
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles * 2; ++i) {
      a[i / 2][i % 2] = *reinterpret_cast<const Quad*>(left.at(row + i * 8 + lane / 4, depth));
    }
    WORDKILN_UNROLL
    for (int e = 0; e < 2; ++e) {
      // Rows eight apart have the same swap.
      const float* from = right.at(lane % 4 * 2 + e, depth);
      WORDKILN_UNROLL
      for (int n = 0; n < kColumnTiles; ++n) {
        const Quad b = *reinterpret_cast<const Quad*>(from + n * 8 * kDepth);
        WORDKILN_UNROLL
        for (int i = 0; i < kTiles * 2; ++i) {
          WORDKILN_UNROLL
          for (int k = 0; k < 4; ++k) sums[i / 2][n][i % 2 * 2 + e] += a[i / 2][i % 2].x[k] * b.x[k];
        }
      }
    }
  }
}

// As multiply_weights of 16-bit tiles, but for which columns a lane has the sums of: sum_column. The weights of a row
// are with four lanes, which tell each other.
template <int kDepth, int kColumns, int kTiles, int kDepthTiles, int kColumnTiles>
WORDKILN_DEVICE void multiply_weights(const float (&weights)[kTiles][kDepthTiles][4],
                                      SharedTile<float, kDepth, kColumns>& right, int column,
                                      float (&sums)[kTiles][kColumnTiles][4]) {
  static_assert(kDepthTiles * 8 == kDepth && kColumnTiles % 2 == 0);
  const int lane = device::recomputed(device::lane());
  WORDKILN_UNROLL
  for (int k = 0; k < kDepth; ++k) {
    float a[kTiles][2];
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles * 2; ++i) {
      a[i / 2][i % 2] = device::shfl(weights[i / 2][k / 8][i % 2 * 2 + k % 2], lane / 4 * 4 + k % 8 / 2);
    }
    WORDKILN_UNROLL
    for (int n = 0; n < kColumnTiles; n += 2) {
      const Quad b = *reinterpret_cast<const Quad*>(right.at(k, column + n * 8 + lane % 4 * 4));
      WORDKILN_UNROLL
      for (int i = 0; i < kTiles * 2; ++i) {
        WORDKILN_UNROLL
        for (int c = 0; c < 4; ++c) sums[i / 2][n + c / 2][i % 2 * 2 + c % 2] += a[i / 2][i % 2] * b.x[c];
      }
    }
  }
}

}  // namespace wordkiln::cuda
