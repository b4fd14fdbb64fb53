// Attention of few queries over many keys: the keys are split among warps, and a second kernel joins what they found
// (Flash-Decoding, Dao et al. 2023). A warp takes all query heads that share a key head as rows of one product, and
// works for itself, without a barrier of the block. Keys and values may lie in pages.
#pragma once

#include "cuda/attention/float_products.h"
#include "cuda/attention/scores.h"
#include "cuda/device/launch.h"
#include "cuda/device/reduce.h"

namespace wordkiln::cuda {

struct DecodeShape {
  static constexpr int kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kRows = 16;  // of queries and heads: what a product takes
};

// Tiles of one warp.
template <typename T, int kSize>
struct DecodeTiles {
  static constexpr int kKeys = kSize * sizeof(T) <= 256 ? 32 : 16;
  SharedTile<T, DecodeShape::kRows, kSize> q;
  SharedTile<T, kKeys, kSize> k, v;
};

template <typename T, int kSize>
struct DecodeShared {
  DecodeTiles<T, kSize> warps[DecodeShape::kWarps];
};

// What a warp found of a row: parts[row of lse][split] is the output not yet divided, then its largest score and total.
WORDKILN_DEVICE float* part_of(const ForwardParams& p, int64_t row, int split) {
  return p.parts + (row * p.splits + split) * (p.scores.head_size + 2);
}

template <typename T, int kSize>
class DecodeWarp {
  using Tiles = DecodeTiles<T, kSize>;
  static constexpr int kKeys = Tiles::kKeys, kKeyTiles = kKeys / 8;

 public:
  // The rows from `first` on are those of the heads of `kv_head`, the queries of each one after the other.
  WORDKILN_DEVICE DecodeWarp(const ForwardParams& p, Tiles& tiles, const Row& row, int kv_head, int first)
      : p_(p),
        tiles_(tiles),
        row_(row),
        group_(p.scores.heads / p.scores.kv_heads),
        kv_head_(kv_head),
        first_(first),
        keys_(p.scores, p.pages, p.k, p.k_strides, row, kv_head),
        values_(p.scores, p.pages, p.v, p.v_strides, row, kv_head),
        all_see_{row.visible(p.scores.queries - 1).begin, row.visible(0).end},
        changed_(is_changed(p.scores)),
        factor_(changed_ ? 1.0f : p.scores.to_log2) {}

  WORDKILN_DEVICE void run(Range keys, int split) {
    load_queries();
    load(tiles_.k, keys_, keys, keys.begin);
    load(tiles_.v, values_, keys, keys.begin);
    for (int key = keys.begin; key < keys.end; key += kKeys) {
      device::cp_async_wait<1>();
      device::sync_warp();  // the keys are there
      WORDKILN_UNROLL
      for (int i = 0; i < kKeyTiles * 4; ++i) scores_[0][i / 4][i % 4] = 0.0f;
      multiply_rows(tiles_.q, 0, tiles_.k, scores_);
      device::sync_warp();  // no lane reads the keys (float32; ldmatrix is a meeting of its own)
      load(tiles_.k, keys_, keys, key + kKeys);
      weigh(keys, key);
      device::cp_async_wait<1>();
      device::sync_warp();  // the values are there
      multiply_weights(scores_, tiles_.v, 0, out_);
      device::sync_warp();  // no lane reads the values
      load(tiles_.v, values_, keys, key + kKeys);
    }
    device::cp_async_wait<0>();
    store(split);
  }

 private:
  WORDKILN_DEVICE int head_of_row(int row) const { return kv_head_ * group_ + row / p_.scores.queries; }
  WORDKILN_DEVICE int query_of_row(int row) const { return row % p_.scores.queries; }
  WORDKILN_DEVICE bool exists(int row) const { return row < group_ * p_.scores.queries; }

  WORDKILN_DEVICE void load_queries() {
    using Tile = SharedTile<T, DecodeShape::kRows, kSize>;
    const T* q = static_cast<const T*>(p_.q) + row_.index * p_.q_strides.batch;
    WORDKILN_UNROLL
    for (int i = 0; i < DecodeShape::kRows * Tile::kChunks / 32; ++i) {
      const int chunk = i * 32 + device::lane(), at = chunk / Tile::kChunks, row = first_ + at;
      const int column = chunk % Tile::kChunks * Tile::kPart;
      const bool valid = exists(row) && column < p_.scores.head_size;
      const int64_t offset = head_of_row(row) * p_.q_strides.head + query_of_row(row) * p_.q_strides.row + column;
      device::cp_async16(tiles_.q.at(at, column), valid ? q + offset : q, valid);
    }
  }

  // Always a group of copies, also where no key is left.
  WORDKILN_DEVICE void load(SharedTile<T, kKeys, kSize>& tile, const KeyRows<T>& rows, Range keys, int first) {
    if (first < keys.end && rows.is_paged()) {
      load_pages(tile, rows, keys, first);
    } else if (first < keys.end) {
      tile.template load<32>(rows.matrix(), first, keys.end, p_.scores.head_size);
    }
    device::cp_async_commit();
  }

  WORDKILN_DEVICE void load_pages(SharedTile<T, kKeys, kSize>& tile, const KeyRows<T>& rows, Range keys, int first) {
    using Tile = SharedTile<T, kKeys, kSize>;
    for (int chunk = device::lane(); chunk < kKeys * Tile::kChunks; chunk += 32) {
      const int at = chunk / Tile::kChunks, column = chunk % Tile::kChunks * Tile::kPart;
      const T* row = first + at < keys.end && column < p_.scores.head_size ? rows[first + at] : nullptr;
      device::cp_async16(tile.at(at, column), row != nullptr ? row + column : rows.first(), row != nullptr);
    }
  }

  // Scores of the keys from `first` on to weights. What a plain call does not need is behind branches that all lanes
  // take alike: a warp's own instructions, not memory, limited this loop.
  WORDKILN_DEVICE void weigh(Range keys, int first) {
    const bool is_whole = all_see_.begin <= first && all_see_.end >= first + kKeys && keys.end >= first + kKeys;
    if (changed_ || keys_.is_paged() || !is_whole) change(keys, first);
    WORDKILN_UNROLL
    for (int h = 0; h < 2; ++h) {
      const float shrink = sums_[h].add(scores_[0], h, factor_);
      WORDKILN_UNROLL
      for (int n = 0; n < kSize / 8; ++n) {
        out_[0][n][2 * h] *= shrink;
        out_[0][n][2 * h + 1] *= shrink;
      }
    }
  }

  WORDKILN_DEVICE void change(Range keys, int first) {
    const int column = device::lane() % 4 * 2;
    WORDKILN_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int row = first_ + h * 8 + device::recomputed(device::lane()) / 4, query = query_of_row(row);
      if (changed_) {
        const ScoreChange<T> change(p_.scores, row_, exists(row) ? head_of_row(row) : 0);
        change.apply([&](auto body) {
          WORDKILN_UNROLL
          for (int n = 0; n < kKeyTiles; ++n) {
            WORDKILN_UNROLL
            for (int e = 0; e < 2; ++e) {
              float slope = 0.0f;
              body(Score{scores_[0][n][2 * h + e], slope, query, first + n * 8 + column + e, 0.0f});
            }
          }
        });
      }
      const Range seen = row_.visible(query);
      WORDKILN_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        WORDKILN_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int key = first + n * 8 + column + e;
          float& score = scores_[0][n][2 * h + e];
          const bool sees = key >= seen.begin && key < seen.end && key < keys.end;
          if (!sees) score = -INFINITY;
          if (sees && keys_.is_paged() && keys_[key] == nullptr) score = NAN;
        }
      }
    }
  }

  WORDKILN_DEVICE void store(int split) {
    WORDKILN_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int row = first_ + h * 8 + device::lane() / 4;
      const float total = sums_[h].whole_total();
      if (!exists(row)) continue;
      float* part = part_of(p_, lse_index(p_.scores, row_, head_of_row(row)) + query_of_row(row), split);
      WORDKILN_UNROLL
      for (int n = 0; n < kSize / 8; ++n) {
        WORDKILN_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int column = sum_column<T>(n, e);
          if (column < p_.scores.head_size) part[column] = out_[0][n][2 * h + e];
        }
      }
      if (device::lane() % 4 == 0) {
        part[p_.scores.head_size] = factor_ * sums_[h].largest;
        part[p_.scores.head_size + 1] = total;
      }
    }
  }

  const ForwardParams& p_;
  Tiles& tiles_;
  const Row& row_;
  const int group_, kv_head_, first_;
  const KeyRows<T> keys_, values_;
  const Range all_see_;  // keys that no query has masked
  const bool changed_;
  const float factor_;  // of what the scores are when they are summed
  float scores_[1][kKeyTiles][4];
  float out_[1][kSize / 8][4] = {};
  SoftmaxSums sums_[2];
};

// Warps: [B, Hkv, tiles of rows, splits].
template <typename T, int kSize>
WORDKILN_KERNEL(DecodeShape::kThreads)
attention_decode_kernel(const ForwardParams p) {
  auto& s = device::shared<DecodeShared<T, kSize>>();
  const int tiles =
      (p.scores.heads / p.scores.kv_heads * p.scores.queries + DecodeShape::kRows - 1) / DecodeShape::kRows;
  const int warp = device::block_index() * DecodeShape::kWarps + device::warp_index();
  const int split = warp % p.splits, item = warp / p.splits;
  const int tile = item % tiles, kv_head = item / tiles % p.scores.kv_heads, batch = item / tiles / p.scores.kv_heads;
  if (batch >= p.scores.batch) return;
  const Row row(p.scores, batch);
  // Splits are of what the longest row may have: a short row leaves its last ones empty, and the host need not know.
  constexpr int kKeys = DecodeTiles<T, kSize>::kKeys;
  const int64_t span = (p.scores.keys + p.splits * kKeys - 1) / (p.splits * kKeys) * kKeys;
  const Range seen = row.visible({0, p.scores.queries}, 1);
  const Range keys = {clamp(split * span, seen.begin, seen.end), clamp((split + 1) * span, seen.begin, seen.end)};
  DecodeWarp<T, kSize>(p, s.warps[device::warp_index()], row, kv_head, tile * DecodeShape::kRows).run(keys, split);
}

// Columns of a row of lse that a warp joins. All of a row in one warp would wait for memory one column after the other.
constexpr int kJoinColumns = 32;

WORDKILN_HOST_DEVICE inline int join_warps(const ScoreParams& p) {
  return (p.head_size + kJoinColumns - 1) / kJoinColumns;
}

template <typename T>
WORDKILN_KERNEL(DecodeShape::kThreads)
attention_join_kernel(const ForwardParams p) {
  const ScoreParams& s = p.scores;
  const int64_t warp = static_cast<int64_t>(device::block_index()) * DecodeShape::kWarps + device::warp_index();
  const int64_t index = warp / join_warps(s);
  const int column = static_cast<int>(warp % join_warps(s)) * kJoinColumns + device::lane();
  if (index >= static_cast<int64_t>(s.batch) * s.heads * s.queries) return;
  const int query = static_cast<int>(index % s.queries), head = static_cast<int>(index / s.queries % s.heads);
  const Row row(s, static_cast<int>(index / s.queries / s.heads));
  const Range seen = row.visible(query);
  const bool sees = seen.begin < seen.end;
  float largest = -INFINITY;
  for (int i = device::lane(); i < p.splits; i += 32) largest = fmaxf(largest, part_of(p, index, i)[s.head_size]);
  largest = device::warp_max(largest);
  const float base = largest == -INFINITY ? 0.0f : largest;
  float total = 0.0f;
  for (int i = device::lane(); i < p.splits; i += 32) {
    const float* part = part_of(p, index, i);
    total += part[s.head_size + 1] * device::exp2_fast(part[s.head_size] - base);
  }
  total = device::warp_sum(total);
  if (column == 0) p.lse[index] = sees ? kLn2 * (base + log2f(total)) : -INFINITY;
  if (column >= s.head_size) return;
  float sum = 0.0f;
  for (int i = 0; i < p.splits; ++i) {
    const float* part = part_of(p, index, i);
    sum += part[column] * device::exp2_fast(part[s.head_size] - base);
  }
  T* out = head_of(static_cast<T*>(p.out), p.out_strides, row.index, head, query).data;
  out[column] = device::from_float<T>(sees ? sum / total : 0.0f);
}

template <typename T, int kSize>
void launch_decode(const ForwardParams& p, Stream stream) {
  const ScoreParams& s = p.scores;
  const int tiles = (s.heads / s.kv_heads * s.queries + DecodeShape::kRows - 1) / DecodeShape::kRows;
  const auto blocks = [](int64_t warps) {
    return static_cast<int>((warps + DecodeShape::kWarps - 1) / DecodeShape::kWarps);
  };
  device::launch(attention_decode_kernel<T, kSize>, blocks(int64_t{s.batch} * s.kv_heads * tiles * p.splits),
                 DecodeShape::kThreads, sizeof(DecodeShared<T, kSize>), stream, device::Launch::kIndependent, p);
  device::launch(attention_join_kernel<T>, blocks(int64_t{s.batch} * s.heads * s.queries * join_warps(s)),
                 DecodeShape::kThreads, 0, stream, device::Launch::kIndependent, p);
}

template <typename T>
void launch_decode(const ForwardParams& p, Stream stream) {
  if (p.scores.head_size <= 64) return launch_decode<T, 64>(p, stream);
  if (p.scores.head_size <= 128) return launch_decode<T, 128>(p, stream);
  if constexpr (sizeof(T) == 2) launch_decode<T, 256>(p, stream);
}

}  // namespace wordkiln::cuda
