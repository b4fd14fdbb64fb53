// Attention backward (docs/attention.md, Backward), by two kernels: a block owns a tile of keys and goes through the
// queries that see them, or a tile of queries and goes through their keys. Scores are computed in both: two products
// more than with one kernel that adds up grad_q in memory by atomics (FlashAttention-2, algorithm 2), and the same bits
// every time.
#pragma once

#include "cuda/attention/deltas.h"
#include "cuda/attention/float_products.h"
#include "cuda/attention/scores.h"
#include "cuda/device/launch.h"

namespace wordkiln::cuda {

template <typename T, int kSize>
struct BackwardShape {
  static constexpr int kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kRows = kWarps * 16;                          // that a block owns
  static constexpr int kSteps = kSize * sizeof(T) <= 256 ? 64 : 16;  // of the others at a time: two stages must fit
  static constexpr int kSlice = kSize <= 128 ? kSize : 128;  // columns of the keys' gradients that fit the registers
};

// lse and deltas of some queries.
template <int kQueries>
struct QuerySums {
  float lse[kQueries], deltas[kQueries];

  WORDKILN_DEVICE void load(const BackwardParams& p, const Row& row, int head, int first) {
    const int query = first + device::thread_index();
    if (device::thread_index() >= kQueries) return;
    const int64_t index = lse_index(p.scores, row, head) + query;
    lse[device::thread_index()] = query < row.queries ? kLog2E * p.lse[index] : 0.0f;
    deltas[device::thread_index()] = query < row.queries ? p.deltas[index] : 0.0f;
  }
};

// --- grad_k and grad_v ---

template <typename T, int kSize>
struct KeyGradShared {
  static constexpr int kRows = BackwardShape<T, kSize>::kRows, kSteps = BackwardShape<T, kSize>::kSteps;
  SharedTile<T, kRows, kSize> k, v;
  struct Stage {
    SharedTile<T, kSteps, kSize> q, grad_out;
    QuerySums<kSteps> sums;
  } stages[2];
};

template <typename T, int kSize, bool kChanged>
class KeyGradBlock {
  using Shape = BackwardShape<T, kSize>;
  using Shared = KeyGradShared<T, kSize>;
  static constexpr int kQueryTiles = Shape::kSteps / 8, kSliceTiles = Shape::kSlice / 8;

 public:
  WORDKILN_DEVICE KeyGradBlock(const BackwardParams& p, Shared& s, const Row& row, int kv_head, int first, int slice)
      : p_(p),
        s_(s),
        row_(row),
        kv_head_(kv_head),
        first_(first),
        column_(slice * Shape::kSlice),
        group_(p.scores.heads / p.scores.kv_heads) {
    if (first < row.keys) {
      queries_ = row.seeing({first, first + Shape::kRows < row.keys ? first + Shape::kRows : row.keys}, Shape::kSteps);
    }
    tiles_ = (queries_.end - queries_.begin + Shape::kSteps - 1) / Shape::kSteps;
  }

  WORDKILN_DEVICE void run() {
    const int batch = batch_of(p_.scores, row_), size = p_.scores.head_size;
    const auto k = head_of(static_cast<const T*>(p_.k), p_.k_strides, batch, kv_head_, row_.first_key);
    const auto v = head_of(static_cast<const T*>(p_.v), p_.v_strides, batch, kv_head_, row_.first_key);
    s_.k.template load<Shape::kThreads>(k, first_, row_.keys, size);
    s_.v.template load<Shape::kThreads>(v, first_, row_.keys, size);
    load(0);
    device::cp_async_commit();
    const int rounds = group_ * tiles_;
    for (int round = 0; round < rounds; ++round) {
      device::cp_async_wait<0>();
      device::sync_block();  // this round's queries are there, and no warp reads those of the last
      if (round + 1 < rounds) load(round + 1);
      device::cp_async_commit();
      step(round);
    }
    device::cp_async_wait<0>();
    device::sync_block();  // keys and values make room for their gradients
    store();
  }

 private:
  WORDKILN_DEVICE int head_of_round(int round) const { return kv_head_ * group_ + round / tiles_; }
  WORDKILN_DEVICE int query_of_round(int round) const { return queries_.begin + round % tiles_ * Shape::kSteps; }

  WORDKILN_DEVICE void load(int round) {
    if (tiles_ == 0) return;
    auto& stage = s_.stages[round % 2];
    const int batch = batch_of(p_.scores, row_), head = head_of_round(round), first = query_of_round(round);
    const auto q = head_of(static_cast<const T*>(p_.q), p_.q_strides, batch, head, row_.first_query);
    const auto grad_out =
        head_of(static_cast<const T*>(p_.grad_out), p_.grad_out_strides, batch, head, row_.first_query);
    stage.q.template load<Shape::kThreads>(q, first, row_.queries, p_.scores.head_size);
    stage.grad_out.template load<Shape::kThreads>(grad_out, first, row_.queries, p_.scores.head_size);
    stage.sums.load(p_, row_, head, first);
  }

  WORDKILN_DEVICE void step(int round) {
    auto& stage = s_.stages[round % 2];
    float weights[1][kQueryTiles][4] = {}, grads[1][kQueryTiles][4] = {};
    multiply_rows(s_.k, device::warp_index() * 16, stage.q, weights);
    multiply_rows(s_.v, device::warp_index() * 16, stage.grad_out, grads);
    differentiate(stage.sums, head_of_round(round), query_of_round(round), weights[0], grads[0]);
    multiply_weights(weights, stage.grad_out, column_, grad_v_);
    multiply_weights(grads, stage.q, column_, grad_k_);
  }

  // Rows are keys, columns are queries.
  WORDKILN_DEVICE void differentiate(const QuerySums<Shape::kSteps>& sums, int head, int first,
                                     float (&weights)[kQueryTiles][4], float (&grads)[kQueryTiles][4]) {
    const WeightGradient<T, kChanged> gradient(p_.scores, row_, head);
    const bool whole = row_.visible(first + Shape::kSteps - 1).begin <= first_ &&
                       row_.visible(first).end >= first_ + Shape::kRows && first + Shape::kSteps <= row_.queries;
    WORDKILN_UNROLL
    for (int n = 0; n < kQueryTiles; ++n) {
      WORDKILN_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int column = n * 8 + device::lane() % 4 * 2 + e % 2, query = first + column;
        const int key = first_ + device::warp_index() * 16 + e / 2 * 8 + device::lane() / 4;
        gradient.apply(weights[n][e], grads[n][e], sums.lse[column], sums.deltas[column], query, key);
        if (whole) continue;
        const Range seen = row_.visible(query);
        if (query < row_.queries && key >= seen.begin && key < seen.end) continue;
        weights[n][e] = 0.0f;
        grads[n][e] = 0.0f;
      }
    }
  }

  WORDKILN_DEVICE void store() {
    // Rows without key offsets own all of their keys, also those beyond their length.
    const int rows = p_.scores.key_offsets == nullptr ? p_.scores.keys : row_.keys;
    const AttentionStrides strides = contiguous(p_.scores, p_.scores.kv_heads, p_.scores.keys);
    store(s_.k, grad_k_, p_.scores.scale, p_.grad_k, strides, rows);
    store(s_.v, grad_v_, 1.0f, p_.grad_v, strides, rows);
  }

  WORDKILN_DEVICE void store(SharedTile<T, Shape::kRows, kSize>& room, const float (&sums)[1][kSliceTiles][4],
                             float factor, void* to, const AttentionStrides& strides, int rows) {
    auto& tile = reinterpret_cast<SharedTile<T, Shape::kRows, Shape::kSlice>&>(room);
    const float factors[1][2] = {{factor, factor}};
    auto matrix = head_of(static_cast<T*>(to), strides, batch_of(p_.scores, row_), kv_head_, row_.first_key);
    matrix.data += column_;
    store_rows(tile, device::warp_index() * 16, sums, factors, matrix, first_, rows, p_.scores.head_size - column_);
  }

  const BackwardParams& p_;
  Shared& s_;
  const Row& row_;
  const int kv_head_, first_, column_, group_;
  Range queries_ = {0, 0};
  int tiles_;
  float grad_k_[1][kSliceTiles][4] = {}, grad_v_[1][kSliceTiles][4] = {};
};

// Blocks: [tiles of keys, slices of columns, Hkv].
template <typename T, int kSize, bool kChanged>
WORDKILN_KERNEL((BackwardShape<T, kSize>::kThreads))
attention_key_grad_kernel(const BackwardParams p) {
  using Shape = BackwardShape<T, kSize>;
  constexpr int kSlices = kSize / Shape::kSlice;
  const int kv_head = device::block_index() % p.scores.kv_heads, rest = device::block_index() / p.scores.kv_heads;
  // Backwards: with a causal mask the first keys have most to do.
  const int slots = device::block_count() / (p.scores.kv_heads * kSlices);
  const Tile tile(p.scores, p.scores.key_offsets, p.scores.keys, slots - 1 - rest / kSlices, Shape::kRows);
  const Row row(p.scores, tile.row);
  if (tile.first >= (p.scores.key_offsets == nullptr ? p.scores.keys : row.keys)) return;
  auto& s = device::shared<KeyGradShared<T, kSize>>();
  KeyGradBlock<T, kSize, kChanged>(p, s, row, kv_head, tile.first, rest % kSlices).run();
}

// --- grad_q ---

template <typename T, int kSize>
struct QueryGradShared {
  static constexpr int kRows = BackwardShape<T, kSize>::kRows, kSteps = BackwardShape<T, kSize>::kSteps;
  SharedTile<T, kRows, kSize> q, grad_out;
  struct Stage {
    SharedTile<T, kSteps, kSize> k, v;
  } stages[2];
};

template <typename T, int kSize, bool kChanged>
class QueryGradBlock {
  using Shape = BackwardShape<T, kSize>;
  using Shared = QueryGradShared<T, kSize>;
  static constexpr int kKeyTiles = Shape::kSteps / 8;

 public:
  WORDKILN_DEVICE QueryGradBlock(const BackwardParams& p, Shared& s, const Row& row, int head, int first)
      : p_(p),
        s_(s),
        row_(row),
        head_(head),
        first_(first),
        keys_(row.visible({first, first + Shape::kRows < row.queries ? first + Shape::kRows : row.queries},
                          Shape::kSteps)),
        gradient_(p.scores, row, head) {
    WORDKILN_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int64_t index = lse_index(p.scores, row, head) + query_of(h);
      const bool exists = query_of(h) < row.queries;
      lse_[h] = exists ? kLog2E * p.lse[index] : 0.0f;
      deltas_[h] = exists ? p.deltas[index] : 0.0f;
    }
  }

  WORDKILN_DEVICE void run() {
    const int batch = batch_of(p_.scores, row_), size = p_.scores.head_size;
    const auto q = head_of(static_cast<const T*>(p_.q), p_.q_strides, batch, head_, row_.first_query);
    const auto grad_out =
        head_of(static_cast<const T*>(p_.grad_out), p_.grad_out_strides, batch, head_, row_.first_query);
    s_.q.template load<Shape::kThreads>(q, first_, row_.queries, size);
    s_.grad_out.template load<Shape::kThreads>(grad_out, first_, row_.queries, size);
    load(keys_.begin);
    device::cp_async_commit();
    for (int key = keys_.begin; key < keys_.end; key += Shape::kSteps) {
      device::cp_async_wait<0>();
      device::sync_block();  // these keys are there, and no warp reads the last ones
      load(key + Shape::kSteps);
      device::cp_async_commit();
      step(key);
    }
    device::cp_async_wait<0>();
    device::sync_block();  // the queries make room for their gradients
    const float factors[1][2] = {{p_.scores.scale, p_.scores.scale}};
    const auto to = head_of(static_cast<T*>(p_.grad_q), contiguous(p_.scores, p_.scores.heads, p_.scores.queries),
                            batch, head_, row_.first_query);
    store_rows(s_.q, device::warp_index() * 16, grad_q_, factors, to, first_, row_.queries, size);
  }

 private:
  WORDKILN_DEVICE int query_of(int h) const { return first_ + device::warp_index() * 16 + h * 8 + device::lane() / 4; }

  WORDKILN_DEVICE void load(int key) {
    if (key >= keys_.end) return;
    auto& stage = s_.stages[key / Shape::kSteps % 2];
    const int batch = batch_of(p_.scores, row_), kv_head = head_ / (p_.scores.heads / p_.scores.kv_heads);
    const auto k = head_of(static_cast<const T*>(p_.k), p_.k_strides, batch, kv_head, row_.first_key);
    const auto v = head_of(static_cast<const T*>(p_.v), p_.v_strides, batch, kv_head, row_.first_key);
    stage.k.template load<Shape::kThreads>(k, key, keys_.end, p_.scores.head_size);
    stage.v.template load<Shape::kThreads>(v, key, keys_.end, p_.scores.head_size);
  }

  WORDKILN_DEVICE void step(int key) {
    auto& stage = s_.stages[key / Shape::kSteps % 2];
    float weights[1][kKeyTiles][4] = {}, grads[1][kKeyTiles][4] = {};
    multiply_rows(s_.q, device::warp_index() * 16, stage.k, weights);
    multiply_rows(s_.grad_out, device::warp_index() * 16, stage.v, grads);
    differentiate(key, weights[0], grads[0]);
    multiply_weights(grads, stage.k, 0, grad_q_);
  }

  WORDKILN_DEVICE void differentiate(int first, float (&weights)[kKeyTiles][4], float (&grads)[kKeyTiles][4]) {
    const bool whole =
        row_.visible(first_ + Shape::kRows - 1).begin <= first && row_.visible(first_).end >= first + Shape::kSteps;
    WORDKILN_UNROLL
    for (int e = 0; e < 4; ++e) {
      const Range seen = row_.visible(query_of(e / 2));
      WORDKILN_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        const int key = first + n * 8 + device::lane() % 4 * 2 + e % 2;
        gradient_.apply(weights[n][e], grads[n][e], lse_[e / 2], deltas_[e / 2], query_of(e / 2), key);
        if (!whole && (key < seen.begin || key >= seen.end)) grads[n][e] = 0.0f;
      }
    }
  }

  const BackwardParams& p_;
  Shared& s_;
  const Row& row_;
  const int head_, first_;
  const Range keys_;
  const WeightGradient<T, kChanged> gradient_;
  float lse_[2], deltas_[2];
  float grad_q_[1][kSize / 8][4] = {};
};

template <typename T, int kSize, bool kChanged>
WORDKILN_KERNEL((BackwardShape<T, kSize>::kThreads))
attention_query_grad_kernel(const BackwardParams p) {
  using Shape = BackwardShape<T, kSize>;
  const int head = device::block_index() % p.scores.heads;
  const Tile tile(p.scores, p.scores.query_offsets, p.scores.queries, device::block_index() / p.scores.heads,
                  Shape::kRows);
  const Row row(p.scores, tile.row);
  if (tile.first >= row.queries) return;
  auto& s = device::shared<QueryGradShared<T, kSize>>();
  QueryGradBlock<T, kSize, kChanged>(p, s, row, head, tile.first).run();
}

template <typename T, int kSize, bool kChanged>
void launch_backward(const BackwardParams& p, Stream stream) {
  using Shape = BackwardShape<T, kSize>;
  const ScoreParams& s = p.scores;
  const bool packed = s.query_offsets != nullptr;
  const int64_t keys = tile_slots(s, packed, s.keys, Shape::kRows) * s.kv_heads * (kSize / Shape::kSlice);
  const int64_t queries = tile_slots(s, packed, s.queries, Shape::kRows) * s.heads;
  if (s.keys > 0) {
    device::launch(attention_key_grad_kernel<T, kSize, kChanged>, static_cast<int>(keys), Shape::kThreads,
                   sizeof(KeyGradShared<T, kSize>), stream, device::Launch::kIndependent, p);
  }
  if (s.queries > 0) {
    device::launch(attention_query_grad_kernel<T, kSize, kChanged>, static_cast<int>(queries), Shape::kThreads,
                   sizeof(QueryGradShared<T, kSize>), stream, device::Launch::kIndependent, p);
  }
}

template <typename T, int kSize>
void launch_backward(const BackwardParams& p, Stream stream) {
  if (is_changed(p.scores)) return launch_backward<T, kSize, true>(p, stream);
  launch_backward<T, kSize, false>(p, stream);
}

template <typename T>
void launch_backward(const BackwardParams& p, Stream stream) {
  launch_deltas<T>(p, stream);
  if (p.scores.head_size <= 64) return launch_backward<T, 64>(p, stream);
  if (p.scores.head_size <= 128) return launch_backward<T, 128>(p, stream);
  if constexpr (sizeof(T) == 2) launch_backward<T, 256>(p, stream);
}

}  // namespace wordkiln::cuda
