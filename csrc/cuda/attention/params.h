// What the host tells the attention kernels, who sees what, and where it lies.
#pragma once

#include "common/host_device.h"
#include "cuda/device/device.h"
#include "wordkiln/attention.h"

namespace wordkiln::cuda {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Begin and end.
struct Range {
  int begin, end;
};

// AttentionSizes and AttentionScores in the types that kernels compute in.
struct ScoreParams {
  const int64_t* key_lengths;
  const int64_t* query_offsets;
  const int64_t* key_offsets;
  int batch, heads, kv_heads, queries, keys, head_size;
  bool causal;
  int window;     // 0: none
  float scale;    // the caller's
  float to_log2;  // what a product q k is multiplied with before the cap: scale log2(e), or scale / soft_cap
  float cap;      // soft_cap log2(e), or 0
  const void* bias;
  AttentionBiasStrides bias_strides;
  const double* slopes;
  uint32_t drop_below;  // a word below it drops its weight; 0: no dropout
  float keep;           // 1 / (1 - dropout)
  uint64_t seed;
  uint32_t offset;
};

ScoreParams score_params(const AttentionSizes& sizes, const AttentionScores& scores);

// Whether there is more between the products than a softmax of scores times a positive scale.
WORDKILN_HOST_DEVICE inline bool is_changed(const ScoreParams& p) {
  return p.cap != 0 || p.bias != nullptr || p.slopes != nullptr || p.drop_below != 0 || !(p.to_log2 > 0);
}

struct ForwardParams {
  ScoreParams scores;
  const void* q;
  const void* k;
  const void* v;
  void* out;
  float* lse;
  AttentionStrides q_strides, k_strides, v_strides, out_strides;
  AttentionPages pages;
  float* parts;  // scratch of the decoding kernels
  int splits;    // of the keys, there
};

struct BackwardParams {
  ScoreParams scores;
  const void* q;
  const void* k;
  const void* v;
  const void* out;
  const float* lse;
  const void* grad_out;
  const float* grad_lse;  // or null
  void* grad_q;           // contiguous, as the two below
  void* grad_k;
  void* grad_v;
  AttentionStrides q_strides, k_strides, v_strides, out_strides, grad_out_strides;
  float* deltas;  // as lse: of out and grad_out the product, less the gradient of lse
};

WORDKILN_DEVICE int clamp(int64_t x, int low, int high) {
  return x < low ? low : x > high ? high : static_cast<int>(x);
}

// One row of the batch, or one packed text.
struct Row {
  int index, first_query, queries, first_key, keys;
  bool causal;
  int window;

  WORDKILN_DEVICE Row(const ScoreParams& p, int row)
      : index(row), first_query(0), queries(p.queries), first_key(0), keys(p.keys), causal(p.causal), window(p.window) {
    if (p.query_offsets != nullptr) {
      first_query = clamp(p.query_offsets[row], 0, p.queries);
      queries = clamp(p.query_offsets[row + 1], first_query, p.queries) - first_query;
      first_key = clamp(p.key_offsets[row], 0, p.keys);
      keys = clamp(p.key_offsets[row + 1], first_key, p.keys) - first_key;
    } else if (p.key_lengths != nullptr) {
      keys = clamp(p.key_lengths[row], 0, p.keys);
    }
  }

  // The key at which a query stands; it may be before the first.
  WORDKILN_DEVICE int position(int query) const { return query + keys - queries; }

  // The keys that a query sees: begin and end never fall from one query to the next.
  WORDKILN_DEVICE Range visible(int query) const {
    const int64_t at = position(query);
    const int end = clamp(causal ? at + 1 : window > 0 ? at + window : keys, 0, keys);
    return {window > 0 ? clamp(at - window + 1, 0, end) : 0, end};
  }

  // The keys that some of these queries see, from a multiple of `step` on.
  WORDKILN_DEVICE Range visible(Range queries_, int step) const {
    const Range first = visible(queries_.begin), last = visible(queries_.end - 1);
    return {min(first.begin, last.end) / step * step, last.end};
  }

  // The queries that see some of these keys, from a multiple of `step` on.
  WORDKILN_DEVICE Range seeing(Range keys_, int step) const {
    const int64_t shift = static_cast<int64_t>(queries) - keys;  // query = position + shift
    const int64_t first = causal ? keys_.begin + shift : window > 0 ? keys_.begin - window + 1 + shift : 0;
    const int64_t last = window > 0 ? keys_.end - 1 + window + shift : queries;
    const int end = clamp(last, 0, queries);
    return {clamp(first, 0, end) / step * step, end};
  }

 private:
  WORDKILN_DEVICE static int min(int a, int b) { return a < b ? a : b; }
};

// The slots for tiles of `rows` rows: every row of the batch has as many as it needs. A packed text has the slots from
// offset / rows + its number on, which is at least enough, and which the host can count without its length.
inline int64_t tile_slots(const ScoreParams& p, bool packed, int length, int rows) {
  if (packed) return length / rows + p.batch;
  return static_cast<int64_t>(p.batch) * ((length + rows - 1) / rows);
}

// Whose tile a slot is. Tiles of a row go from the last to the first: with a causal mask the last ones have most to do.
struct Tile {
  int row, first;

  WORDKILN_DEVICE Tile(const ScoreParams& p, const int64_t* offsets, int length, int slot, int rows) {
    if (offsets == nullptr) {
      const int tiles = (length + rows - 1) / rows;
      row = slot / tiles;
      first = (tiles - 1 - slot % tiles) * rows;
      return;
    }
    int low = 0, high = p.batch;  // the last text whose slots begin at `slot` or before
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (clamp(offsets[middle], 0, length) / rows + middle <= slot) {
        low = middle;
      } else {
        high = middle;
      }
    }
    row = low;
    first = (slot - clamp(offsets[low], 0, length) / rows - low) * rows;
  }
};

// Rows of elements of one head.
template <typename T>
struct Matrix {
  T* data;
  int64_t row;

  WORDKILN_DEVICE T* operator[](int i) const { return data + i * row; }
};

template <typename T>
WORDKILN_DEVICE Matrix<T> head_of(T* x, const AttentionStrides& strides, int batch, int head, int first) {
  return {x + batch * strides.batch + head * strides.head + first * strides.row, strides.row};
}

// Where a row's part of a contiguous [B, H, rows, D] starts; packed texts lie in one long row.
WORDKILN_DEVICE AttentionStrides contiguous(const ScoreParams& p, int heads, int rows) {
  const int64_t head = static_cast<int64_t>(rows) * p.head_size;
  return {p.query_offsets == nullptr ? heads * head : 0, head, p.head_size};
}

// The batch's index in a tensor: packed texts have none.
WORDKILN_DEVICE int batch_of(const ScoreParams& p, const Row& row) {
  return p.query_offsets == nullptr ? row.index : 0;
}

// Keys or values of one head, in one piece or in pages.
template <typename T>
class KeyRows {
 public:
  WORDKILN_DEVICE KeyRows(const ScoreParams& p, const AttentionPages& pages, const void* x,
                          const AttentionStrides& strides, const Row& row, int kv_head)
      : pages_(pages), strides_(strides) {
    const int batch = pages.table != nullptr ? 0 : batch_of(p, row);
    data_ = head_of(static_cast<const T*>(x), strides, batch, kv_head, row.first_key).data;
    table_ = pages.table == nullptr ? nullptr : pages.table + row.index * pages.pages;
  }

  // Null where the table names no page.
  WORDKILN_DEVICE const T* operator[](int key) const {
    if (table_ == nullptr) return data_ + key * strides_.row;
    const int64_t page = table_[key / pages_.page_size];
    if (page < 0 || page >= pages_.count) return nullptr;
    return data_ + page * strides_.batch + key % pages_.page_size * strides_.row;
  }

  WORDKILN_DEVICE const T* first() const { return data_; }

  WORDKILN_DEVICE bool is_paged() const { return table_ != nullptr; }

  // Where they lie in one piece.
  WORDKILN_DEVICE Matrix<const T> matrix() const { return {data_, strides_.row}; }

 private:
  const AttentionPages& pages_;
  const AttentionStrides& strides_;
  const T* data_;
  const int64_t* table_;
};

// Where the log-sum-exp of query 0 of a head lies: [B, H, S], packed texts in one long row.
WORDKILN_DEVICE int64_t lse_index(const ScoreParams& p, const Row& row, int head) {
  return (static_cast<int64_t>(batch_of(p, row)) * p.heads + head) * p.queries + row.first_query;
}

}  // namespace wordkiln::cuda
