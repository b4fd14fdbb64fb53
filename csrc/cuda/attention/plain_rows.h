// Rows of float32 spread over the lanes of a warp, for the plain kernels.
#pragma once

#include "cuda/device/reduce.h"

namespace wordkiln::cuda {

struct PlainShape {
  static constexpr int kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kRows = 4;  // queries (or keys) that share what a warp reads
};

// Column c of a row is in lane c % 32, at c / 32; 0 beyond the row's end and where there is no row.
template <int kColumns>
WORDKILN_DEVICE void load_row(float (&to)[kColumns], const float* row, int size) {
  WORDKILN_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    const int column = c * 32 + device::lane();
    to[c] = row != nullptr && column < size ? row[column] : 0.0f;
  }
}

template <int kColumns>
WORDKILN_DEVICE void store_row(float* row, const float (&from)[kColumns], float factor, int size) {
  WORDKILN_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    const int column = c * 32 + device::lane();
    if (column < size) row[column] = factor * from[c];
  }
}

template <int kColumns>
WORDKILN_DEVICE float dot(const float (&a)[kColumns], const float (&b)[kColumns]) {
  float sum = 0.0f;
  WORDKILN_UNROLL
  for (int c = 0; c < kColumns; ++c) sum += a[c] * b[c];
  return device::warp_sum(sum);
}

template <int kColumns>
WORDKILN_DEVICE void add_scaled(float (&to)[kColumns], float factor, const float (&from)[kColumns]) {
  WORDKILN_UNROLL
  for (int c = 0; c < kColumns; ++c) to[c] += factor * from[c];
}

}  // namespace wordkiln::cuda
