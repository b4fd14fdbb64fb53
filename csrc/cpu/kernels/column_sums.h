// Sums over the rows of a matrix, such as the gradient of a bias: each thread over its own rows, then over the threads
// in their order, so that the bits depend on nothing but the number of threads.
#pragma once

#include "cpu/kernels/parallel.h"
#include "cpu/kernels/simd.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// body(row, sums) for each row, which adds to `sums` [width, rounded up to whole vectors]; out [width].
template <typename T, typename Body, typename C = Computed<T>>
void sum_columns(int64_t rows, int64_t width, int threads, T* out, Body body) {
  const int64_t padded = (width + kLanes<C> - 1) / kLanes<C> * kLanes<C>;
  const Workspace workspace(static_cast<size_t>(threads) * padded * sizeof(C));
  C* sums = static_cast<C*>(workspace.data());
  int started = 0;  // the pool may give fewer than it was asked for
  parallel_threads(threads, [&](int thread, int of) {
    if (thread == 0) started = of;
    C* mine = sums + thread * padded;
    for (int64_t j = 0; j < padded; ++j) mine[j] = 0;
    const Range range = split(rows, thread, of);
    for (int64_t i = range.begin; i < range.end; ++i) body(i, mine);
  });
  for_vectors<C>(0, width, [&](int64_t j, int lanes) {
    Vec<C> total = {};
    for (int t = 0; t < started; ++t) total += load(sums + t * padded + j);
    store(out + j, total, lanes);
  });
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
