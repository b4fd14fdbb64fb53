// Attention backward (docs/attention.md, Backward), by two kernels: a block owns a tile of keys and goes through the
// queries that see them, or a tile of queries and goes through their keys. Scores are computed in both: two products
// more than with one kernel that adds up grad_q in memory by atomics (FlashAttention-2, algorithm 2), and the same bits
// every time.
#pragma once

#include "cuda/attention/deltas.h"
#include "cuda/attention/key_grad.h"
#include "cuda/attention/query_grad.h"

namespace wordkiln::cuda {

template <typename T, int kSize>
void launch_backward(const BackwardParams& p, Stream stream) {
  if (is_changed(p.scores)) {
    launch_key_grad<T, kSize, true>(p, stream);
    launch_query_grad<T, kSize, true>(p, stream);
  } else {
    launch_key_grad<T, kSize, false>(p, stream);
    launch_query_grad<T, kSize, false>(p, stream);
  }
}

template <typename T>
void launch_backward(const BackwardParams& p, Stream stream) {
  launch_deltas<T>(p, stream);
  if (p.scores.head_size <= 64) return launch_backward<T, 64>(p, stream);
  if (p.scores.head_size <= 128) return launch_backward<T, 128>(p, stream);
  if constexpr (sizeof(T) == 2) launch_backward<T, 256>(p, stream);
}

}  // namespace wordkiln::cuda
