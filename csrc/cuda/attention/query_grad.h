// grad_q of attention (docs/attention.md, Backward): a block owns a tile of queries and goes through the keys that they
// see.
#pragma once

#include "cuda/attention/float_products.h"
#include "cuda/attention/scores.h"
#include "cuda/device/launch.h"

namespace wordkiln::cuda {

template <typename T, int kSize, bool kChanged>
struct QueryGradShape {
  static constexpr int kBytes = kSize * sizeof(T);  // of a row
  static constexpr int kWarps = 4, kThreads = 32 * kWarps;
  // As in ForwardShape.
  static constexpr int kTiles = sizeof(T) == 2 && kSize <= 128 && !kChanged ? 2 : 1;
  static constexpr int kRows = kWarps * kTiles * 16;  // that a block owns
  // Keys at a time: two stages must fit the 99 KB of sm_120, the products the registers.
  static constexpr int kSteps = kBytes > 256 ? 16 : sizeof(T) == 2 && (kSize == 128 || kChanged) ? 32 : 64;
};

template <typename T, int kSize, bool kChanged>
struct QueryGradShared {
  using Shape = QueryGradShape<T, kSize, kChanged>;
  SharedTile<T, Shape::kRows, kSize> q, grad_out;  // q: in the end its gradient
  struct Stage {
    SharedTile<T, Shape::kSteps, kSize> k, v;
  } stages[2];
  float lse[Shape::kRows], deltas[Shape::kRows];
  // What the block works on, as in KeyGradShared.
  Matrix<const T> keys, values;
  Row row;
  int head, first;  // query
  Range seen;       // keys that some query sees
};

template <typename T, int kSize, bool kChanged>
class QueryGradWarp {
  using Shape = QueryGradShape<T, kSize, kChanged>;
  using Shared = QueryGradShared<T, kSize, kChanged>;
  using Stage = typename Shared::Stage;
  static constexpr int kTiles = Shape::kTiles, kKeyTiles = Shape::kSteps / 8;
  static constexpr int kAtOnce = kChanged && kSize == 128 ? 4 : 16;  // as in ForwardShape where registers are short

 public:
  WORDKILN_DEVICE QueryGradWarp(const BackwardParams& p, Shared& s, const Row& row, int head)
      : p_(p), s_(s), change_(p.scores, row, head), dropout_(p.scores, row, head) {}

  WORDKILN_DEVICE void run() {
    const int batch = batch_of(p_.scores, s_.row), size = p_.scores.head_size;
    const auto q = head_of(static_cast<const T*>(p_.q), p_.q_strides, batch, s_.head, s_.row.first_query);
    const auto grad_out =
        head_of(static_cast<const T*>(p_.grad_out), p_.grad_out_strides, batch, s_.head, s_.row.first_query);
    s_.q.template load<Shape::kThreads>(q, s_.first, s_.row.queries, size);
    s_.grad_out.template load<Shape::kThreads>(grad_out, s_.first, s_.row.queries, size);
    load(s_.seen.begin);
    device::cp_async_commit();
    for (int key = s_.seen.begin; key < s_.seen.end; key += Shape::kSteps) {
      device::cp_async_wait<0>();
      device::sync_block();  // these keys are there, and no warp reads the last ones
      load(key + Shape::kSteps);
      device::cp_async_commit();
      step(key);
    }
    device::cp_async_wait<0>();
    device::sync_block();  // the queries make room for their gradients
    store();
  }

 private:
  WORDKILN_DEVICE static int own_row() { return device::warp_index() * kTiles * 16; }

  WORDKILN_DEVICE Stage& stage_of(int key) { return s_.stages[key / Shape::kSteps % 2]; }

  WORDKILN_DEVICE void load(int key) {
    if (key >= s_.seen.end) return;
    Stage& stage = stage_of(key);
    stage.k.template load<Shape::kThreads>(s_.keys, key, s_.seen.end, p_.scores.head_size);
    stage.v.template load<Shape::kThreads>(s_.values, key, s_.seen.end, p_.scores.head_size);
  }

  WORDKILN_DEVICE void step(int key) {
    Stage& stage = stage_of(key);
    float weights[kTiles][kKeyTiles][4] = {}, grads[kTiles][kKeyTiles][4] = {};
    multiply_rows<kAtOnce>(s_.q, own_row(), stage.k, weights);
    multiply_rows<kAtOnce>(s_.grad_out, own_row(), stage.v, grads);
    differentiate(key, weights, grads);
    multiply_weights(grads, stage.k, 0, sums_);
  }

  // Products of q and k, and of grad_out and v, to the gradients of the first ones over `scale`.
  WORDKILN_DEVICE void differentiate(int key, float (&weights)[kTiles][kKeyTiles][4],
                                     float (&grads)[kTiles][kKeyTiles][4]) {
    const int lane = device::lane(), own = own_row() + lane / 4, first = key + lane % 4 * 2;
    const bool drops = kChanged && p_.scores.drop_below != 0;
    Kept<kTiles, kKeyTiles> kept;
    if (drops) kept = dropout_.template kept_of_queries<kTiles, kKeyTiles>(s_.first + own, first);
    for_sums<kTiles, kKeyTiles>([&](int i, int n, int e) {
      float& grad = grads[i][n][e];
      if (drops) grad = kept(i, n, e) ? p_.scores.keep * grad : 0.0f;
      grad -= s_.deltas[own + i * 16 + e / 2 * 8];
    });
    weigh_again<kChanged>(p_.scores, change_, [&](auto body) {
      for_sums<kTiles, kKeyTiles>([&](int i, int n, int e) {
        const int at = own + i * 16 + e / 2 * 8;
        body(Score{weights[i][n][e], grads[i][n][e], s_.first + at, first + n * 8 + e % 2, s_.lse[at]});
      });
    });
    const Row row = s_.row;
    const bool whole =
        row.visible(s_.first + Shape::kRows - 1).begin <= key && row.visible(s_.first).end >= key + Shape::kSteps;
    if (whole) return;
    WORDKILN_UNROLL
    for (int h = 0; h < kTiles * 2; ++h) {
      const Range seen = row.visible(s_.first + own + h * 8);
      WORDKILN_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        WORDKILN_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int at = first + n * 8 + e;
          if (at < seen.begin || at >= seen.end) grads[h / 2][n][h % 2 * 2 + e] = 0.0f;
        }
      }
    }
  }

  WORDKILN_DEVICE void store() {
    float factors[kTiles][2];
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles; ++i) factors[i][0] = factors[i][1] = p_.scores.scale;
    const auto to = head_of(static_cast<T*>(p_.grad_q), contiguous(p_.scores, p_.scores.heads, p_.scores.queries),
                            batch_of(p_.scores, s_.row), s_.head, s_.row.first_query);
    store_rows(s_.q, own_row(), sums_, factors, to, s_.first, s_.row.queries, p_.scores.head_size);
  }

  const BackwardParams& p_;
  Shared& s_;
  const ScoreChange<T> change_;
  const Dropout dropout_;
  float sums_[kTiles][kSize / 8][4] = {};
};

// Fills in what the block works on.
template <typename T, int kSize, bool kChanged>
WORDKILN_DEVICE void prepare(const BackwardParams& p, QueryGradShared<T, kSize, kChanged>& s, const Row& row, int head,
                             int first) {
  using Shape = QueryGradShape<T, kSize, kChanged>;
  const int own = device::thread_index();
  if (own < Shape::kRows) {
    const int64_t index = lse_index(p.scores, row, head) + first + own;
    const bool exists = first + own < row.queries;
    s.lse[own] = exists ? kLog2E * p.lse[index] : 0.0f;
    s.deltas[own] = exists ? p.deltas[index] : 0.0f;
  }
  if (own != 0) return;
  const int batch = batch_of(p.scores, row), kv_head = head / (p.scores.heads / p.scores.kv_heads);
  s.keys = head_of(static_cast<const T*>(p.k), p.k_strides, batch, kv_head, row.first_key);
  s.values = head_of(static_cast<const T*>(p.v), p.v_strides, batch, kv_head, row.first_key);
  s.row = row;
  s.head = head;
  s.first = first;
  s.seen = row.visible({first, first + Shape::kRows < row.queries ? first + Shape::kRows : row.queries}, Shape::kSteps);
}

// Blocks: [tiles of queries, H].
template <typename T, int kSize, bool kChanged>
WORDKILN_KERNEL((QueryGradShape<T, kSize, kChanged>::kThreads))
attention_query_grad_kernel(const BackwardParams p) {
  using Shape = QueryGradShape<T, kSize, kChanged>;
  const int head = device::block_index() % p.scores.heads;
  const Tile tile(p.scores, p.scores.query_offsets, p.scores.queries, device::block_index() / p.scores.heads,
                  Shape::kRows);
  const Row row(p.scores, tile.row);
  if (tile.first >= row.queries) return;
  auto& s = device::shared<QueryGradShared<T, kSize, kChanged>>();
  prepare(p, s, row, head, tile.first);
  device::sync_block();
  QueryGradWarp<T, kSize, kChanged>(p, s, row, head).run();
}

template <typename T, int kSize, bool kChanged>
void launch_query_grad(const BackwardParams& p, Stream stream) {
  using Shape = QueryGradShape<T, kSize, kChanged>;
  const ScoreParams& s = p.scores;
  if (s.queries == 0) return;
  const int64_t blocks = tile_slots(s, s.query_offsets != nullptr, s.queries, Shape::kRows) * s.heads;
  device::launch(attention_query_grad_kernel<T, kSize, kChanged>, static_cast<int>(blocks), Shape::kThreads,
                 sizeof(QueryGradShared<T, kSize, kChanged>), stream, device::Launch::kIndependent, p);
}

}  // namespace wordkiln::cuda
