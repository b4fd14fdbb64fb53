// What both kernels of the backward pass need of each query: the product of out and grad_out, less the gradient of lse.
#pragma once

#include <cstring>

#include "cuda/attention/params.h"
#include "cuda/device/launch.h"
#include "cuda/device/reduce.h"

namespace wordkiln::cuda {

constexpr int kDeltaThreads = 128;
constexpr int kDeltaLanes = 8;  // of a row: at head size 64 one load of 16 bytes each
constexpr int kDeltaRows = kDeltaThreads / kDeltaLanes;

// The rows of lse, one after the other: of packed texts there is one batch. The bindings allow 2^30.
inline int64_t lse_rows(const ScoreParams& p) {
  return (p.query_offsets == nullptr ? int64_t{p.batch} : 1) * p.heads * p.queries;
}

// The sum of products of the elements of 16 bytes.
template <typename T>
WORDKILN_DEVICE float product_of_chunks(const T* x, const T* y) {
  constexpr int kPart = 16 / sizeof(T);
  const device::Chunk chunks[2] = {*reinterpret_cast<const device::Chunk*>(x),
                                   *reinterpret_cast<const device::Chunk*>(y)};
  T a[kPart], b[kPart];
  memcpy(a, &chunks[0], sizeof a);
  memcpy(b, &chunks[1], sizeof b);
  float sum = 0.0f;
  WORDKILN_UNROLL
  for (int i = 0; i < kPart; ++i) sum += device::to_float(a[i]) * device::to_float(b[i]);
  return sum;
}

template <typename T>
WORDKILN_KERNEL(kDeltaThreads)
attention_deltas_kernel(const BackwardParams p, int rows) {
  constexpr int kPart = 16 / sizeof(T);
  const int own = device::block_index() * kDeltaRows + device::thread_index() / kDeltaLanes;
  // Lanes without a row take the last one: all take part in the sum.
  const int index = own < rows ? own : rows - 1;
  const int query = index % p.scores.queries, rest = index / p.scores.queries;
  const int head = rest % p.scores.heads, batch = rest / p.scores.heads;
  const T* out = head_of(static_cast<const T*>(p.out), p.out_strides, batch, head, query).data;
  const T* grad_out = head_of(static_cast<const T*>(p.grad_out), p.grad_out_strides, batch, head, query).data;
  float sum = 0.0f;
  const int lane = device::thread_index() % kDeltaLanes;
  WORDKILN_UNROLL_BY(2)  // by four, the compiler's choice, float32 would spill
  for (int column = lane * kPart; column < p.scores.head_size; column += kDeltaLanes * kPart) {
    sum += product_of_chunks(out + column, grad_out + column);
  }
  sum = device::eight_lanes_sum(sum);
  if (own < rows && lane == 0) p.deltas[index] = sum - (p.grad_lse == nullptr ? 0.0f : p.grad_lse[index]);
}

template <typename T>
void launch_deltas(const BackwardParams& p, Stream stream) {
  const int rows = static_cast<int>(lse_rows(p.scores));
  if (rows == 0) return;
  device::launch(attention_deltas_kernel<T>, (rows + kDeltaRows - 1) / kDeltaRows, kDeltaThreads, 0, stream,
                 device::Launch::kIndependent, p, rows);
}

}  // namespace wordkiln::cuda
