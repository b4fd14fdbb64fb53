// grad_k and grad_v of attention (docs/attention.md, Backward): a block owns a tile of keys and goes through the
// queries that see them.
//
// Of float32 and at 256 columns two warps share their keys: one makes the weights and sums grad_v, the other their
// gradients and grad_k. With both sums a warp would have registers for half as many keys, or half of the columns.
#pragma once

#include <cstring>

#include "cuda/attention/float_products.h"
#include "cuda/attention/scores.h"
#include "cuda/device/launch.h"

namespace wordkiln::cuda {

template <typename T, int kSize, bool kChanged>
struct KeyGradShape {
  static constexpr int kBytes = kSize * sizeof(T);  // of a row
  static constexpr bool kPaired = sizeof(T) == 4 || kSize == 256;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kOwners = kPaired ? kWarps / 2 : kWarps;  // warps or pairs of them, with keys of their own
  static constexpr int kTiles = kBytes <= (kPaired ? 256 : 128) ? 2 : 1;  // of 16 keys each
  static constexpr int kRows = kOwners * kTiles * 16;                     // keys of a block
  // Queries at a time: the products must fit the registers, and two stages the 99 KB of sm_120.
  static constexpr int kSteps = kPaired ? (kSize == 128 ? 16 : 32) : kTiles == 2 || kChanged ? 32 : 64;
};

template <typename T, int kSize, bool kChanged>
struct KeyGradShared {
  using Shape = KeyGradShape<T, kSize, kChanged>;
  static constexpr int kSteps = Shape::kSteps;
  SharedTile<T, Shape::kRows, kSize> k, v;  // in the end: their gradients
  struct Stage {
    SharedTile<T, kSteps, kSize> q, grad_out;
    float lse[kSteps], deltas[kSteps];
  } stages[2];
  // What a warp tells the other of its pair of each weight, rounded to T, by lane: both hold the same ones.
  static constexpr int kChunks = Shape::kTiles * kSteps * sizeof(T) / 32;
  device::Chunk told[Shape::kPaired ? Shape::kOwners : 1][Shape::kPaired ? kChunks : 1][32];
  // What the block works on: read where it is needed, as in registers over the main loop it would push out sums.
  Row row;
  int kv_head, first;  // key
  Range queries;       // that see some of the block's keys
};

// A tile of queries of a head.
struct Round {
  int head, query;
};

template <typename T, int kSize, bool kChanged>
class KeyGradWarp {
  using Shape = KeyGradShape<T, kSize, kChanged>;
  using Shared = KeyGradShared<T, kSize, kChanged>;
  using Stage = typename Shared::Stage;
  static constexpr int kTiles = Shape::kTiles, kQueryTiles = Shape::kSteps / 8;

 public:
  WORDKILN_DEVICE KeyGradWarp(const BackwardParams& p, Shared& s) : p_(p), s_(s) {}

  WORDKILN_DEVICE void run() {
    const int batch = batch_of(p_.scores, s_.row), size = p_.scores.head_size;
    const auto k = head_of(static_cast<const T*>(p_.k), p_.k_strides, batch, s_.kv_head, s_.row.first_key);
    const auto v = head_of(static_cast<const T*>(p_.v), p_.v_strides, batch, s_.kv_head, s_.row.first_key);
    s_.k.template load<Shape::kThreads>(k, s_.first, s_.row.keys, size);
    s_.v.template load<Shape::kThreads>(v, s_.first, s_.row.keys, size);
    const int group = p_.scores.heads / p_.scores.kv_heads;
    Round round = {s_.kv_head * group, s_.queries.begin};
    if (s_.queries.begin < s_.queries.end) {
      load(0, round);
      put(0);
    }
    device::cp_async_commit();
    for (int stage = 0; s_.queries.begin < s_.queries.end && round.head < (s_.kv_head + 1) * group; stage ^= 1) {
      const Round next = after(round);
      device::cp_async_wait<0>();
      device::sync_block();  // this round's queries are there, and no warp reads those of the last
      if (next.head < (s_.kv_head + 1) * group) load(stage ^ 1, next);
      device::cp_async_commit();
      step(s_.stages[stage], round);
      put(stage ^ 1);
      round = next;
    }
    device::cp_async_wait<0>();
    device::sync_block();  // keys and values make room for their gradients
    store();
  }

 private:
  WORDKILN_DEVICE static int owner() { return device::recomputed(device::thread_index()) / (Shape::kPaired ? 64 : 32); }
  WORDKILN_DEVICE static int own_row() { return owner() * kTiles * 16; }

  WORDKILN_DEVICE Round after(Round round) const {
    const int query = round.query + Shape::kSteps;
    return query < s_.queries.end ? Round{round.head, query} : Round{round.head + 1, s_.queries.begin};
  }

  WORDKILN_DEVICE void load(int number, Round round) {
    Stage& stage = s_.stages[number];
    const Row& row = s_.row;
    const int batch = batch_of(p_.scores, row);
    const auto q = head_of(static_cast<const T*>(p_.q), p_.q_strides, batch, round.head, row.first_query);
    const auto grad_out =
        head_of(static_cast<const T*>(p_.grad_out), p_.grad_out_strides, batch, round.head, row.first_query);
    stage.q.template load<Shape::kThreads>(q, round.query, row.queries, p_.scores.head_size);
    stage.grad_out.template load<Shape::kThreads>(grad_out, round.query, row.queries, p_.scores.head_size);
    const int own = device::thread_index(), query = round.query + own;
    const bool exists = own < Shape::kSteps && query < row.queries;
    const int64_t index = lse_index(p_.scores, row, round.head) + query;
    next_lse_ = exists ? kLog2E * p_.lse[index] : 0.0f;
    next_delta_ = exists ? p_.deltas[index] : 0.0f;
  }

  // What load() has read, at the end of the round: before, its products would wait for it.
  WORDKILN_DEVICE void put(int number) {
    const int own = device::thread_index();
    if (own >= Shape::kSteps) return;
    s_.stages[number].lse[own] = next_lse_;
    s_.stages[number].deltas[own] = next_delta_;
  }

  // Rows of all products are keys, columns are queries.
  WORDKILN_DEVICE void step(Stage& stage, Round round) {
    float weights[kTiles][kQueryTiles][4] = {}, grads[kTiles][kQueryTiles][4] = {};
    if constexpr (Shape::kPaired) {
      const bool weighs = device::warp_index() % 2 == 0;
      multiply_rows(weighs ? s_.k : s_.v, own_row(), weighs ? stage.q : stage.grad_out, weights);
      if (weighs) {
        weigh(stage, round, weights, grads);
        tell(grads);
      }
      device::sync_block();  // the weights are told
      if (!weighs) differentiate(stage, weights);
      multiply_weights(weights, weighs ? stage.grad_out : stage.q, 0, sums_[0]);
    } else {
      // Unrolled whole, too, it would spill.
      multiply_rows<4>(s_.k, own_row(), stage.q, weights);
      multiply_rows(s_.v, own_row(), stage.grad_out, grads);
      weigh(stage, round, weights, grads);
      multiply_weights(weights, stage.grad_out, 0, sums_[0]);
      multiply_weights(grads, stage.q, 0, sums_[1]);
    }
  }

  // Products of k and q to weights, those of v and grad_out to the gradients of k q. Of a pair: to what it tells.
  WORDKILN_DEVICE void weigh(const Stage& stage, Round round, float (&weights)[kTiles][kQueryTiles][4],
                             float (&grads)[kTiles][kQueryTiles][4]) {
    const int lane = device::lane(), own = s_.first + own_row() + lane / 4, column = lane % 4 * 2;
    const bool drops = kChanged && p_.scores.drop_below != 0;
    Kept<kTiles, kQueryTiles> kept;
    if (drops) {
      const Dropout dropout(p_.scores, s_.row, round.head);
      kept = dropout.template kept_of_keys<kTiles, kQueryTiles>(round.query + column, own);
    }
    for_sums<kTiles, kQueryTiles>([&](int i, int n, int e) {
      float& grad = grads[i][n][e];
      if constexpr (Shape::kPaired) {
        grad = drops && !kept(i, n, e) ? -1.0f : 1.0f;
      } else {
        if (drops) grad = kept(i, n, e) ? p_.scores.keep * grad : 0.0f;
        grad -= stage.deltas[n * 8 + column + e % 2];
      }
    });
    weigh_again<kChanged>(p_.scores, ScoreChange<T>(p_.scores, s_.row, round.head), [&](auto body) {
      for_sums<kTiles, kQueryTiles>([&](int i, int n, int e) {
        const int at = n * 8 + column + e % 2;
        body(Score{weights[i][n][e], grads[i][n][e], round.query + at, own + i * 16 + e / 2 * 8, stage.lse[at]});
      });
    });
    if (drops) {
      for_sums<kTiles, kQueryTiles>([&](int i, int n, int e) {
        float& weight = weights[i][n][e];
        weight = kept(i, n, e) ? p_.scores.keep * weight : 0.0f;
      });
    }
    const Row row = s_.row;
    const bool whole = row.visible(round.query + Shape::kSteps - 1).begin <= s_.first &&
                       row.visible(round.query).end >= s_.first + Shape::kRows &&
                       round.query + Shape::kSteps <= row.queries;
    if (!whole) mask(row, round.query + column, own, weights, grads);
  }

  // `query`, `key`: of the lane's first sum.
  WORDKILN_DEVICE static void mask(const Row& row, int query, int key, float (&weights)[kTiles][kQueryTiles][4],
                                   float (&grads)[kTiles][kQueryTiles][4]) {
    WORDKILN_UNROLL
    for (int h = 0; h < kTiles * 2; ++h) {
      const int own = key + h * 8;
      const Range seeing = own < row.keys ? row.seeing({own, own + 1}, 1) : Range{0, 0};
      WORDKILN_UNROLL
      for (int n = 0; n < kQueryTiles; ++n) {
        WORDKILN_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int at = query + n * 8 + e;
          if (at >= seeing.begin && at < seeing.end) continue;
          weights[h / 2][n][h % 2 * 2 + e] = grads[h / 2][n][h % 2 * 2 + e] = 0.0f;
        }
      }
    }
  }

  // Products of v and grad_out to the gradients of k q, by what the other warp of the pair tells.
  WORDKILN_DEVICE void differentiate(const Stage& stage, float (&grads)[kTiles][kQueryTiles][4]) {
    const int lane = device::lane();
    const float keep = kChanged ? p_.scores.keep : 1.0f;
    WORDKILN_UNROLL
    for (int chunk = 0; chunk < Shared::kChunks; ++chunk) {
      T told[kPart];
      memcpy(told, &s_.told[owner()][chunk][lane], sizeof told);
      WORDKILN_UNROLL
      for (int part = 0; part < kPart; ++part) {
        const Element at(chunk, part);
        const float weight = device::to_float(told[part]), delta = stage.deltas[at.n * 8 + lane % 4 * 2 + at.e % 2];
        float& grad = grads[at.i][at.n][at.e];
        // Negative is what dropout took; what is masked is 0, also beside a delta that is NaN.
        const float kept = weight < 0.0f ? 0.0f : keep * grad;
        grad = weight == 0.0f ? 0.0f : fabsf(weight) * (kept - delta);
      }
    }
  }

  static constexpr int kPart = 16 / sizeof(T);

  // Which of a lane's sums stands where in the chunks that its pair exchanges.
  struct Element {
    int n, i, e;

    WORDKILN_DEVICE Element(int chunk, int part)
        : n((chunk * kPart + part) / (4 * kTiles)), i((chunk * kPart + part) / 4 % kTiles), e(part % 4) {}
  };

  WORDKILN_DEVICE void tell(const float (&told)[kTiles][kQueryTiles][4]) {
    const int lane = device::lane();
    WORDKILN_UNROLL
    for (int chunk = 0; chunk < Shared::kChunks; ++chunk) {
      device::Chunk out;
      WORDKILN_UNROLL
      for (int part = 0; part < kPart; part += 2) {
        const Element at(chunk, part);
        const float* pair = &told[at.i][at.n][at.e];
        if constexpr (sizeof(T) == 2) {
          out.words[part / 2] = device::pack<T>(pair[0], pair[1]);
        } else {
          memcpy(out.words + part, pair, 2 * sizeof(float));
        }
      }
      s_.told[owner()][chunk][lane] = out;
    }
  }

  WORDKILN_DEVICE void store() {
    if constexpr (Shape::kPaired) {
      const bool weighs = device::warp_index() % 2 == 0;
      store(weighs ? s_.v : s_.k, sums_[0], weighs ? 1.0f : p_.scores.scale, weighs ? p_.grad_v : p_.grad_k);
    } else {
      store(s_.v, sums_[0], 1.0f, p_.grad_v);
      store(s_.k, sums_[1], p_.scores.scale, p_.grad_k);
    }
  }

  WORDKILN_DEVICE void store(SharedTile<T, Shape::kRows, kSize>& room, const float (&sums)[kTiles][kSize / 8][4],
                             float factor, void* to) {
    // Rows without key offsets own all of their keys, also those beyond their length.
    const int rows = p_.scores.key_offsets == nullptr ? p_.scores.keys : s_.row.keys;
    float factors[kTiles][2];
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles; ++i) factors[i][0] = factors[i][1] = factor;
    const auto matrix = head_of(static_cast<T*>(to), contiguous(p_.scores, p_.scores.kv_heads, p_.scores.keys),
                                batch_of(p_.scores, s_.row), s_.kv_head, s_.row.first_key);
    store_rows(room, own_row(), sums, factors, matrix, s_.first, rows, p_.scores.head_size);
  }

  const BackwardParams& p_;
  Shared& s_;
  float next_lse_, next_delta_;                                    // of the round behind, a thread's query
  float sums_[Shape::kPaired ? 1 : 2][kTiles][kSize / 8][4] = {};  // grad_v and grad_k; of a pair, a warp has one
};

// Blocks: [tiles of keys, Hkv].
template <typename T, int kSize, bool kChanged>
WORDKILN_KERNEL((KeyGradShape<T, kSize, kChanged>::kThreads))
attention_key_grad_kernel(const BackwardParams p) {
  using Shape = KeyGradShape<T, kSize, kChanged>;
  const int kv_head = device::block_index() % p.scores.kv_heads;
  // Backwards: with a causal mask the first keys have most to do.
  const int slots = device::block_count() / p.scores.kv_heads,
            slot = slots - 1 - device::block_index() / p.scores.kv_heads;
  const Tile tile(p.scores, p.scores.key_offsets, p.scores.keys, slot, Shape::kRows);
  const Row row(p.scores, tile.row);
  if (tile.first >= (p.scores.key_offsets == nullptr ? p.scores.keys : row.keys)) return;
  auto& s = device::shared<KeyGradShared<T, kSize, kChanged>>();
  if (device::thread_index() == 0) {
    s.row = row;
    s.kv_head = kv_head;
    s.first = tile.first;
    const int last = tile.first + Shape::kRows < row.keys ? tile.first + Shape::kRows : row.keys;
    s.queries = tile.first < row.keys ? row.seeing({tile.first, last}, Shape::kSteps) : Range{0, 0};
  }
  device::sync_block();
  KeyGradWarp<T, kSize, kChanged>(p, s).run();
}

template <typename T, int kSize, bool kChanged>
void launch_key_grad(const BackwardParams& p, Stream stream) {
  using Shape = KeyGradShape<T, kSize, kChanged>;
  const ScoreParams& s = p.scores;
  if (s.keys == 0) return;
  const int64_t blocks = tile_slots(s, s.key_offsets != nullptr, s.keys, Shape::kRows) * s.kv_heads;
  device::launch(attention_key_grad_kernel<T, kSize, kChanged>, static_cast<int>(blocks), Shape::kThreads,
                 sizeof(KeyGradShared<T, kSize, kChanged>), stream, device::Launch::kIndependent, p);
}

}  // namespace wordkiln::cuda
