// Attention of float32, which tensor cores round to 10 bits: a warp takes a few queries and one key after the other.
// Simple rather than fast; keys and values may lie in pages.
#pragma once

#include "cuda/attention/plain_rows.h"
#include "cuda/attention/scores.h"
#include "cuda/device/launch.h"

namespace wordkiln::cuda {

template <int kColumns>
WORDKILN_KERNEL(PlainShape::kThreads)
attention_plain_kernel(const ForwardParams p) {
  constexpr int kRows = PlainShape::kRows;
  const ScoreParams& s = p.scores;
  const int head = device::block_index() % s.heads;
  const Tile tile(s, s.query_offsets, s.queries, device::block_index() / s.heads, kRows * PlainShape::kWarps);
  const Row row(s, tile.row);
  const int first = tile.first + device::warp_index() * kRows;
  if (first >= row.queries) return;
  const int last = first + kRows < row.queries ? first + kRows : row.queries;
  const int batch = batch_of(s, row), kv_head = head / (s.heads / s.kv_heads);
  const auto q = head_of(static_cast<const float*>(p.q), p.q_strides, batch, head, row.first_query);
  const auto out = head_of(static_cast<float*>(p.out), p.out_strides, batch, head, row.first_query);
  const KeyRows<float> keys(s, p.pages, p.k, p.k_strides, row, kv_head);
  const KeyRows<float> values(s, p.pages, p.v, p.v_strides, row, kv_head);
  const ScoreChange<float> change(s, row, head);
  const Dropout dropout(s, row, head);

  float own[kRows][kColumns], sums[kRows][kColumns] = {};
  float largest[kRows], total[kRows];
  Range seen[kRows];
  for (int i = 0; i < kRows; ++i) {
    load_row(own[i], first + i < last ? q[first + i] : nullptr, s.head_size);
    largest[i] = -INFINITY;
    total[i] = 0.0f;
    seen[i] = row.visible(first + i < last ? first + i : last - 1);
  }
  const Range all = row.visible({first, last}, 1);
  for (int key = all.begin; key < all.end; ++key) {
    float k[kColumns], v[kColumns];
    load_row(k, keys[key], s.head_size);
    load_row(v, values[key], s.head_size);
    const bool none = keys[key] == nullptr;
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const float product = dot(own[i], k);
      if (key < seen[i].begin || key >= seen[i].end) continue;
      float derivative;
      const float score = none ? NAN : change.apply(product, first + i, key, derivative);
      const float top = fmaxf(largest[i], score), base = top == -INFINITY ? 0.0f : top;
      const float shrink = device::exp2_fast(largest[i] - base), weight = device::exp2_fast(score - base);
      largest[i] = top;
      total[i] = shrink * total[i] + weight;
      WORDKILN_UNROLL
      for (int c = 0; c < kColumns; ++c) sums[i][c] *= shrink;
      add_scaled(sums[i], weight * dropout.factor(first + i, key), v);
    }
  }
  for (int i = 0; i < kRows && first + i < last; ++i) {
    const bool sees = seen[i].begin < seen[i].end;
    store_row(out[first + i], sums[i], sees ? 1.0f / total[i] : 0.0f, s.head_size);
    if (device::lane() == 0) {
      p.lse[lse_index(s, row, head) + first + i] = sees ? kLn2 * (largest[i] + log2f(total[i])) : -INFINITY;
    }
  }
}

template <int kColumns>
void launch_plain_forward(const ForwardParams& p, Stream stream) {
  const int rows = PlainShape::kRows * PlainShape::kWarps;
  const int64_t blocks = tile_slots(p.scores, p.scores.query_offsets != nullptr, p.scores.queries, rows);
  device::launch(attention_plain_kernel<kColumns>, static_cast<int>(blocks * p.scores.heads), PlainShape::kThreads, 0,
                 stream, device::Launch::kIndependent, p);
}

}  // namespace wordkiln::cuda
