// What both kernels of the backward pass need of each query: the product of out and grad_out, less the gradient of lse.
#pragma once

#include "cuda/attention/params.h"
#include "cuda/device/launch.h"
#include "cuda/device/reduce.h"

namespace wordkiln::cuda {

constexpr int kDeltaThreads = 128;
constexpr int kDeltaLanes = 8;  // of a row: at head size 64 one load of 16 bytes each

// The rows of lse, one after the other: of packed texts there is one batch.
inline int64_t lse_rows(const ScoreParams& p) {
  return (p.query_offsets == nullptr ? int64_t{p.batch} : 1) * p.heads * p.queries;
}

// The sum of products of the elements of 16 bytes.
template <typename T>
WORDKILN_DEVICE float product_of_chunks(const T* x, const T* y) {
  constexpr int kPart = 16 / sizeof(T);
  struct alignas(16) Part {
    T elements[kPart];
  };
  const Part a = *reinterpret_cast<const Part*>(x), b = *reinterpret_cast<const Part*>(y);
  float sum = 0.0f;
  WORDKILN_UNROLL
  for (int i = 0; i < kPart; ++i) sum += device::to_float(a.elements[i]) * device::to_float(b.elements[i]);
  return sum;
}

template <typename T>
WORDKILN_KERNEL(kDeltaThreads)
attention_deltas_kernel(const BackwardParams p, int64_t rows) {
  constexpr int kPart = 16 / sizeof(T);
  const int64_t thread = static_cast<int64_t>(device::block_index()) * kDeltaThreads + device::thread_index();
  // Lanes without a row take the last one: all take part in the sum.
  const int64_t own = thread / kDeltaLanes, index = own < rows ? own : rows - 1;
  const int query = static_cast<int>(index % p.scores.queries);
  const int head = static_cast<int>(index / p.scores.queries % p.scores.heads);
  const int batch = static_cast<int>(index / p.scores.queries / p.scores.heads);
  const T* out = head_of(static_cast<const T*>(p.out), p.out_strides, batch, head, query).data;
  const T* grad_out = head_of(static_cast<const T*>(p.grad_out), p.grad_out_strides, batch, head, query).data;
  float sum = 0.0f;
  const int lane = static_cast<int>(thread % kDeltaLanes);
  for (int column = lane * kPart; column < p.scores.head_size; column += kDeltaLanes * kPart) {
    sum += product_of_chunks(out + column, grad_out + column);
  }
  sum = device::eight_lanes_sum(sum);
  if (own < rows && lane == 0) p.deltas[index] = sum - (p.grad_lse == nullptr ? 0.0f : p.grad_lse[index]);
}

template <typename T>
void launch_deltas(const BackwardParams& p, Stream stream) {
  const int64_t rows = lse_rows(p.scores);
  if (rows == 0) return;
  constexpr int kRows = kDeltaThreads / kDeltaLanes;
  device::launch(attention_deltas_kernel<T>, static_cast<int>((rows + kRows - 1) / kRows), kDeltaThreads, 0, stream,
                 device::Launch::kIndependent, p, rows);
}

}  // namespace wordkiln::cuda
