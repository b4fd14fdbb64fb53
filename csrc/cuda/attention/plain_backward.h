// The backward pass of float32: as plain_forward.h, a warp with a few queries and all their keys, or with a few keys
// and all their queries.
#pragma once

#include "cuda/attention/deltas.h"
#include "cuda/attention/plain_rows.h"
#include "cuda/attention/scores.h"

namespace wordkiln::cuda {

template <int kColumns>
WORDKILN_KERNEL(PlainShape::kThreads)
attention_plain_query_grad_kernel(const BackwardParams p) {
  constexpr int kRows = PlainShape::kRows;
  const ScoreParams& s = p.scores;
  const int head = device::block_index() % s.heads, kv_head = head / (s.heads / s.kv_heads), size = s.head_size;
  const Tile tile(s, s.query_offsets, s.queries, device::block_index() / s.heads, kRows * PlainShape::kWarps);
  const Row row(s, tile.row);
  const int first = tile.first + device::warp_index() * kRows;
  if (first >= row.queries) return;
  const int last = first + kRows < row.queries ? first + kRows : row.queries, batch = batch_of(s, row);
  const auto q = head_of(static_cast<const float*>(p.q), p.q_strides, batch, head, row.first_query);
  const auto grad_out =
      head_of(static_cast<const float*>(p.grad_out), p.grad_out_strides, batch, head, row.first_query);
  const auto keys = head_of(static_cast<const float*>(p.k), p.k_strides, batch, kv_head, row.first_key);
  const auto values = head_of(static_cast<const float*>(p.v), p.v_strides, batch, kv_head, row.first_key);
  const auto grad_q =
      head_of(static_cast<float*>(p.grad_q), contiguous(s, s.heads, s.queries), batch, head, row.first_query);
  const WeightGradient<float, true> gradient(s, row, head);
  const int64_t sums = lse_index(s, row, head);

  float own[kRows][kColumns], grads[kRows][kColumns], out[kRows][kColumns] = {};
  for (int i = 0; i < kRows; ++i) {
    load_row(own[i], first + i < last ? q[first + i] : nullptr, size);
    load_row(grads[i], first + i < last ? grad_out[first + i] : nullptr, size);
  }
  const Range all = row.visible({first, last}, 1);
  for (int key = all.begin; key < all.end; ++key) {
    float k[kColumns], v[kColumns];
    load_row(k, keys[key], size);
    load_row(v, values[key], size);
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const int query = first + i < last ? first + i : last - 1;
      const Range seen = row.visible(query);
      float weight = dot(own[i], k), grad = dot(grads[i], v);
      if (first + i >= last || key < seen.begin || key >= seen.end) continue;
      gradient.apply(weight, grad, kLog2E * p.lse[sums + query], p.deltas[sums + query], query, key);
      add_scaled(out[i], grad, k);
    }
  }
  for (int i = 0; i < kRows && first + i < last; ++i) store_row(grad_q[first + i], out[i], s.scale, size);
}

template <int kColumns>
WORDKILN_KERNEL(PlainShape::kThreads)
attention_plain_key_grad_kernel(const BackwardParams p) {
  constexpr int kRows = PlainShape::kRows;
  const ScoreParams& s = p.scores;
  const int kv_head = device::block_index() % s.kv_heads, group = s.heads / s.kv_heads, size = s.head_size;
  // Backwards: with a causal mask the first keys have most to do.
  const int slot = (device::block_count() - 1 - device::block_index()) / s.kv_heads;
  const Tile tile(s, s.key_offsets, s.keys, slot, kRows * PlainShape::kWarps);
  const Row row(s, tile.row);
  const int first = tile.first + device::warp_index() * kRows, batch = batch_of(s, row);
  const int owned = s.key_offsets == nullptr ? s.keys : row.keys;
  if (first >= owned) return;
  const auto keys = head_of(static_cast<const float*>(p.k), p.k_strides, batch, kv_head, row.first_key);
  const auto values = head_of(static_cast<const float*>(p.v), p.v_strides, batch, kv_head, row.first_key);
  const AttentionStrides strides = contiguous(s, s.kv_heads, s.keys);
  const auto grad_k = head_of(static_cast<float*>(p.grad_k), strides, batch, kv_head, row.first_key);
  const auto grad_v = head_of(static_cast<float*>(p.grad_v), strides, batch, kv_head, row.first_key);

  float k[kRows][kColumns], v[kRows][kColumns], sums_k[kRows][kColumns] = {}, sums_v[kRows][kColumns] = {};
  for (int i = 0; i < kRows; ++i) {
    load_row(k[i], first + i < row.keys ? keys[first + i] : nullptr, size);
    load_row(v[i], first + i < row.keys ? values[first + i] : nullptr, size);
  }
  const int last = first + kRows < row.keys ? first + kRows : row.keys;
  const Range queries = first < last ? row.seeing({first, last}, 1) : Range{0, 0};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const auto q = head_of(static_cast<const float*>(p.q), p.q_strides, batch, head, row.first_query);
    const auto grad_out =
        head_of(static_cast<const float*>(p.grad_out), p.grad_out_strides, batch, head, row.first_query);
    const WeightGradient<float, true> gradient(s, row, head);
    const int64_t sums = lse_index(s, row, head);
    for (int query = queries.begin; query < queries.end; ++query) {
      float own[kColumns], grads[kColumns];
      load_row(own, q[query], size);
      load_row(grads, grad_out[query], size);
      const Range seen = row.visible(query);
      const float lse = kLog2E * p.lse[sums + query], delta = p.deltas[sums + query];
      WORDKILN_UNROLL
      for (int i = 0; i < kRows; ++i) {
        float weight = dot(own, k[i]), grad = dot(grads, v[i]);
        if (first + i < seen.begin || first + i >= seen.end) continue;
        gradient.apply(weight, grad, lse, delta, query, first + i);
        add_scaled(sums_v[i], weight, grads);
        add_scaled(sums_k[i], grad, own);
      }
    }
  }
  for (int i = 0; i < kRows && first + i < owned; ++i) {
    store_row(grad_k[first + i], sums_k[i], s.scale, size);
    store_row(grad_v[first + i], sums_v[i], 1.0f, size);
  }
}

template <int kColumns>
void launch_plain_backward(const BackwardParams& p, Stream stream) {
  const ScoreParams& s = p.scores;
  const int rows = PlainShape::kRows * PlainShape::kWarps;
  const bool packed = s.query_offsets != nullptr;
  if (s.keys > 0) {
    device::launch(attention_plain_key_grad_kernel<kColumns>,
                   static_cast<int>(tile_slots(s, packed, s.keys, rows) * s.kv_heads), PlainShape::kThreads, 0, stream,
                   device::Launch::kIndependent, p);
  }
  if (s.queries > 0) {
    device::launch(attention_plain_query_grad_kernel<kColumns>,
                   static_cast<int>(tile_slots(s, packed, s.queries, rows) * s.heads), PlainShape::kThreads, 0, stream,
                   device::Launch::kIndependent, p);
  }
}

}  // namespace wordkiln::cuda
