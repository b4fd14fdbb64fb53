// Attention forward (FlashAttention-2, Dao 2023): a block owns a tile of queries and goes through the keys that they
// see. While scores are computed the values are on their way, while values are summed the next keys.
#pragma once

#include "cuda/attention/float_products.h"
#include "cuda/attention/scores.h"
#include "cuda/device/launch.h"

namespace wordkiln::cuda {

template <typename T, int kSize, bool kChanged>
struct ForwardShape {
  static constexpr int kWarps = 4, kThreads = 32 * kWarps;
  // 32 query rows a warp read each key and value fragment once for two products. At 256 the sums fill the registers,
  // and with changed scores two tiles spill (up to 88 bytes of a thread). For float32 it was not tried.
  static constexpr int kTiles = sizeof(T) == 2 && kSize <= 128 && !kChanged ? 2 : 1;
  static constexpr int kQueries = kWarps * kTiles * 16;
  static constexpr int kKeys = 64;  // as the panels of dropout's counters
  // Sums and scores leave a thread some 60 registers. There weights are made before the values are waited for, and
  // products unrolled in part, as fragments that the compiler fetches ahead would make other registers spill.
  static constexpr bool kIsTight = (kTiles == 2 && kSize == 128) || (kSize == 256 && kChanged);
};

// What a block works on.
template <typename T>
struct ForwardWork {
  Row row;
  int head, first;  // query
  Range seen;       // keys that some query sees
  Matrix<const T> keys, values;
};

template <typename T, int kSize, bool kChanged>
struct ForwardShared {
  using Shape = ForwardShape<T, kSize, kChanged>;
  SharedTile<T, Shape::kQueries, kSize> q;  // in the end: the output
  SharedTile<T, Shape::kKeys, kSize> k, v;
  // Where registers are short these are read when they are needed.
  ForwardWork<T> work;
  Range all_see[Shape::kWarps];
};

// One warp's part of a tile of queries.
template <typename T, int kSize, bool kChanged>
class ForwardWarp {
  using Shape = ForwardShape<T, kSize, kChanged>;
  using Shared = ForwardShared<T, kSize, kChanged>;
  static constexpr int kTiles = Shape::kTiles, kKeyTiles = Shape::kKeys / 8;

 public:
  WORDKILN_DEVICE ForwardWarp(const ForwardParams& p, Shared& s, const ForwardWork<T>& work)
      : p_(p), s_(s), work_(work), change_(p.scores, work.row, work.head), dropout_(p.scores, work.row, work.head) {
    const int first = place().query - device::lane() / 4;
    all_see_ = {work.row.visible(first + kTiles * 16 - 1).begin, work.row.visible(first).end};
    if (Shape::kIsTight && device::lane() == 0) s.all_see[device::warp_index()] = all_see_;
    device::sync_warp();
  }

  WORDKILN_DEVICE void score() {
    for_sums<kTiles, kKeyTiles>([&](int i, int n, int e) { scores_[i][n][e] = 0.0f; });
    multiply_rows<Shape::kIsTight ? 4 : 16>(s_.q, device::warp_index() * kTiles * 16, s_.k, scores_);
  }

  // Scores of the keys from `key` on to weights.
  WORDKILN_DEVICE void weigh(int key) {
    if constexpr (kChanged) change(key);
    const Range all_see = Shape::kIsTight ? s_.all_see[thread() / 32] : all_see_;
    if (all_see.begin > key || all_see.end < key + Shape::kKeys) mask(key);
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      WORDKILN_UNROLL
      for (int h = 0; h < 2; ++h) {
        const float shrink = sums_[i][h].add(scores_[i], h, kChanged ? 1.0f : p_.scores.to_log2);
        WORDKILN_UNROLL
        for (int n = 0; n < kSize / 8; ++n) {
          out_[i][n][2 * h] *= shrink;
          out_[i][n][2 * h + 1] *= shrink;
        }
      }
    }
    if constexpr (kChanged) {
      if (p_.scores.drop_below != 0) drop(key);
    }
  }

  WORDKILN_DEVICE void add_values() { multiply_weights(scores_, s_.v, 0, out_); }

  WORDKILN_DEVICE void finish() {
    const Place own = place();
    const Row row = work_.row;
    float factors[kTiles][2];
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      WORDKILN_UNROLL
      for (int h = 0; h < 2; ++h) {
        const int query = own.query + i * 16 + h * 8;
        const float total = sums_[i][h].whole_total();
        const Range seen = row.visible(query);
        // Not total == 0: where all scores that a query sees are -inf the result is NaN, as by the definition.
        const bool sees = seen.begin < seen.end;
        factors[i][h] = sees ? p_.scores.keep / total : 0.0f;
        if (query < row.queries && own.column == 0) {
          const float largest = sums_[i][h].largest * (kChanged ? 1.0f : p_.scores.to_log2);
          p_.lse[lse_index(p_.scores, row, work_.head) + query] = sees ? kLn2 * largest + logf(total) : -INFINITY;
        }
      }
    }
    const int tile = thread() / 32 * kTiles * 16;
    const auto out =
        head_of(static_cast<T*>(p_.out), p_.out_strides, batch_of(p_.scores, row), work_.head, row.first_query);
    store_rows(s_.q, tile, out_, factors, out, work_.first, row.queries, p_.scores.head_size);
  }

 private:
  WORDKILN_DEVICE static int thread() {
    return Shape::kIsTight ? device::recomputed(device::thread_index()) : device::thread_index();
  }

  // Of the lane's first score: the query, and the column of eight keys.
  struct Place {
    int query, column;
  };

  WORDKILN_DEVICE Place place() const {
    const int thread = this->thread(), lane = thread % 32;
    return {work_.first + thread / 32 * kTiles * 16 + lane / 4, lane % 4 * 2};
  }

  WORDKILN_DEVICE void change(int key) {
    const Place own = place();
    change_.apply([&](auto body) {
      for_sums<kTiles, kKeyTiles>([&](int i, int n, int e) {
        float slope = 0.0f;
        body(Score{scores_[i][n][e], slope, own.query + i * 16 + e / 2 * 8, key + n * 8 + own.column + e % 2, 0.0f});
      });
    });
  }

  WORDKILN_DEVICE void mask(int key) {
    const Place own = place();
    const Row row = work_.row;
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      WORDKILN_UNROLL
      for (int h = 0; h < 2; ++h) {
        const Range seen = row.visible(own.query + i * 16 + h * 8);
        WORDKILN_UNROLL
        for (int n = 0; n < kKeyTiles; ++n) {
          WORDKILN_UNROLL
          for (int e = 0; e < 2; ++e) {
            const int at = key + n * 8 + own.column + e;
            if (at < seen.begin || at >= seen.end) scores_[i][n][2 * h + e] = -INFINITY;
          }
        }
      }
    }
  }

  WORDKILN_DEVICE void drop(int key) {
    const Place own = place();
    const auto kept = dropout_.template kept_of_queries<kTiles, kKeyTiles>(own.query, key + own.column);
    for_sums<kTiles, kKeyTiles>([&](int i, int n, int e) {
      if (!kept(i, n, e)) scores_[i][n][e] = 0.0f;
    });
  }

  const ForwardParams& p_;
  Shared& s_;
  const ForwardWork<T>& work_;
  Range all_see_;  // keys that all queries of the warp see
  const ScoreChange<T> change_;
  const Dropout dropout_;
  float scores_[kTiles][kKeyTiles][4];
  float out_[kTiles][kSize / 8][4] = {};
  SoftmaxSums sums_[kTiles][2];
};

template <typename T, int kSize, bool kChanged>
WORDKILN_KERNEL((ForwardShape<T, kSize, kChanged>::kThreads))
attention_forward_kernel(const ForwardParams p) {
  using Shape = ForwardShape<T, kSize, kChanged>;
  const int head = device::block_index() % p.scores.heads;
  const Tile tile(p.scores, p.scores.query_offsets, p.scores.queries, device::block_index() / p.scores.heads,
                  Shape::kQueries);
  const Row row(p.scores, tile.row);
  if (tile.first >= row.queries) return;
  auto& s = device::shared<ForwardShared<T, kSize, kChanged>>();
  const int batch = batch_of(p.scores, row), size = p.scores.head_size;
  const int kv_head = head / (p.scores.heads / p.scores.kv_heads);
  const int last = tile.first + Shape::kQueries < row.queries ? tile.first + Shape::kQueries : row.queries;
  const ForwardWork<T> own = {row,
                              head,
                              tile.first,
                              row.visible({tile.first, last}, Shape::kKeys),
                              head_of(static_cast<const T*>(p.k), p.k_strides, batch, kv_head, row.first_key),
                              head_of(static_cast<const T*>(p.v), p.v_strides, batch, kv_head, row.first_key)};
  if constexpr (Shape::kIsTight) {
    if (device::thread_index() == 0) s.work = own;
    device::sync_block();
  }
  const ForwardWork<T>& work = Shape::kIsTight ? s.work : own;
  ForwardWarp<T, kSize, kChanged> warp(p, s, work);

  const auto q = head_of(static_cast<const T*>(p.q), p.q_strides, batch, head, row.first_query);
  const Matrix<const T> k = work.keys, v = work.values;
  s.q.template load<Shape::kThreads>(q, tile.first, row.queries, size);
  if (work.seen.begin < work.seen.end) s.k.template load<Shape::kThreads>(k, work.seen.begin, work.seen.end, size);
  device::cp_async_commit();
  for (int key = work.seen.begin; key < work.seen.end; key += Shape::kKeys) {
    device::cp_async_wait<0>();
    device::sync_block();  // the keys are there, and no warp reads the values of the round before
    s.v.template load<Shape::kThreads>(v, key, work.seen.end, size);
    device::cp_async_commit();
    warp.score();
    if constexpr (Shape::kIsTight) warp.weigh(key);
    device::cp_async_wait<0>();
    device::sync_block();  // the values are there, and no warp reads the keys
    if (key + Shape::kKeys < work.seen.end)
      s.k.template load<Shape::kThreads>(k, key + Shape::kKeys, work.seen.end, size);
    device::cp_async_commit();
    if constexpr (!Shape::kIsTight) warp.weigh(key);
    warp.add_values();
  }
  device::cp_async_wait<0>();
  device::sync_block();  // without keys, other warps' copies of q were still on their way to where the output goes
  warp.finish();
}

template <typename T, int kSize, bool kChanged>
void launch_forward(const ForwardParams& p, Stream stream) {
  using Shape = ForwardShape<T, kSize, kChanged>;
  const int64_t blocks =
      tile_slots(p.scores, p.scores.query_offsets != nullptr, p.scores.queries, Shape::kQueries) * p.scores.heads;
  device::launch(attention_forward_kernel<T, kSize, kChanged>, static_cast<int>(blocks), Shape::kThreads,
                 sizeof(ForwardShared<T, kSize, kChanged>), stream, device::Launch::kIndependent, p);
}

template <typename T, int kSize>
void launch_forward(const ForwardParams& p, Stream stream) {
  if (is_changed(p.scores)) return launch_forward<T, kSize, true>(p, stream);
  launch_forward<T, kSize, false>(p, stream);
}

// The smallest size of a head that there is a kernel for.
template <typename T>
void launch_forward(const ForwardParams& p, Stream stream) {
  if (p.scores.head_size <= 32) return launch_forward<T, 32>(p, stream);
  if (p.scores.head_size <= 64) return launch_forward<T, 64>(p, stream);
  if (p.scores.head_size <= 128) return launch_forward<T, 128>(p, stream);
  if constexpr (sizeof(T) == 2) launch_forward<T, 256>(p, stream);
}

}  // namespace wordkiln::cuda
