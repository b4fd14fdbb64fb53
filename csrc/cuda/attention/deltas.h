// What both kernels of the backward pass need of each query: the product of out and grad_out, less the gradient of lse.
#pragma once

#include "cuda/attention/params.h"
#include "cuda/device/launch.h"
#include "cuda/device/reduce.h"

namespace wordkiln::cuda {

constexpr int kDeltaWarps = 4;

// The rows of lse, one after the other: of packed texts there is one batch.
inline int64_t lse_rows(const ScoreParams& p) {
  return (p.query_offsets == nullptr ? int64_t{p.batch} : 1) * p.heads * p.queries;
}

// One warp a row.
template <typename T>
WORDKILN_KERNEL(kDeltaWarps * 32)
attention_deltas_kernel(const BackwardParams p, int64_t rows) {
  const int64_t index = static_cast<int64_t>(device::block_index()) * kDeltaWarps + device::warp_index();
  if (index >= rows) return;
  const int query = static_cast<int>(index % p.scores.queries);
  const int head = static_cast<int>(index / p.scores.queries % p.scores.heads);
  const int batch = static_cast<int>(index / p.scores.queries / p.scores.heads);
  const T* out = head_of(static_cast<const T*>(p.out), p.out_strides, batch, head, query).data;
  const T* grad_out = head_of(static_cast<const T*>(p.grad_out), p.grad_out_strides, batch, head, query).data;
  float sum = 0.0f;
  for (int column = device::lane(); column < p.scores.head_size; column += 32) {
    sum += device::to_float(out[column]) * device::to_float(grad_out[column]);
  }
  sum = device::warp_sum(sum);
  if (device::lane() == 0) p.deltas[index] = sum - (p.grad_lse == nullptr ? 0.0f : p.grad_lse[index]);
}

template <typename T>
void launch_deltas(const BackwardParams& p, Stream stream) {
  const int64_t rows = lse_rows(p.scores);
  if (rows == 0) return;
  device::launch(attention_deltas_kernel<T>, static_cast<int>((rows + kDeltaWarps - 1) / kDeltaWarps), kDeltaWarps * 32,
                 0, stream, device::Launch::kIndependent, p, rows);
}

}  // namespace wordkiln::cuda
