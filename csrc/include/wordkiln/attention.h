// Scaled dot-product attention on the CPU, forward and backward, without the [S, K] matrix.
//
// Sizes: B batch rows, H query heads, Hkv key heads (H a multiple of Hkv), S queries, K keys, D head size (1 to 256).
// Every void pointer is to elements of `dtype`, or of its computed type where said: float32 for bfloat16, else itself.
// The last dimension of each tensor is contiguous, the others have strides. Inputs and outputs must not overlap.
//
// Packed rows of different lengths: with query_offsets and key_offsets, row b has the queries query_offsets[b] to
// query_offsets[b + 1] and likewise keys of one long row of S queries and K keys; all strides over B are then 0.
#pragma once

#include <cstdint>

#include "wordkiln/dtype.h"

namespace wordkiln {

struct AttentionSizes {
  int64_t batch, heads, kv_heads, queries, keys, head_size;
};

// In elements, of the first three dimensions.
struct AttentionStrides {
  int64_t batch, head, row;
};

// Of the bias [B, H, S, K]; 0 where it is broadcast. `key` is 0 or 1.
struct AttentionBiasStrides {
  int64_t batch, head, row, key;
};

// Who sees what, and what is done to the scores. Query i of a row with L keys stands at key i + L - S.
struct AttentionScores {
  const int64_t* key_lengths;    // [B], each 0 to K: keys beyond are never read; or null: K for every row
  const int64_t* query_offsets;  // [B + 1] or null
  const int64_t* key_offsets;    // [B + 1], exactly where query_offsets are
  bool causal;                   // a query sees no key after the one it stands at
  int64_t window;                // 0, or: a query sees only keys nearer than this to where it stands
  double scale;                  // of q k
  double soft_cap;               // 0, or c: a scaled score x becomes c tanh(x / c)
  const void* bias;              // added to the scores; or null
  AttentionBiasStrides bias_strides;
  const double* slopes;  // [H] or null: ALiBi, slope * distance is subtracted from the score (after the cap)
  double dropout;        // probability to drop a weight, 0 <= dropout < 1; the others grow by 1 / (1 - dropout)
  uint64_t seed;         // with offset, of the weights that are dropped (docs/attention.md, Dropout)
  uint32_t offset;
};

// A cache in pages: key j of row b lies in page table[b * pages + j / page_size], at j % page_size. The strides of k
// and v are then those of [number of pages, Hkv, page_size, D].
struct AttentionPages {
  const int64_t* table;  // [B, pages], or null: the cache is not paged
  int64_t pages, page_size;
  int64_t count;  // how many pages there are; only a GPU's kernels look at it
};

struct AttentionForward {
  const void* q;  // [B, H, S, D]
  const void* k;  // [B, Hkv, K, D]
  const void* v;  // [B, Hkv, K, D]
  void* out;      // [B, H, S, D]; 0 where a query sees no key
  void* lse;      // [B, H, S] contiguous, computed type: log of the softmax's denominator; -inf where no key is seen
  AttentionSizes sizes;
  AttentionStrides q_strides, k_strides, v_strides, out_strides;
  AttentionScores scores;
  AttentionPages pages;  // without offsets and dropout
};

struct AttentionBackward {
  const void* q;         // [B, H, S, D]
  const void* k;         // [B, Hkv, K, D]
  const void* v;         // [B, Hkv, K, D]
  const void* out;       // [B, H, S, D], of the forward pass
  const void* lse;       // [B, H, S] contiguous, computed type, of the forward pass
  const void* grad_out;  // [B, H, S, D]
  const void* grad_lse;  // as lse, or null: zero
  void* grad_q;          // [B, H, S, D] contiguous
  void* grad_k;          // [B, Hkv, K, D] contiguous; 0 for keys that no query sees
  void* grad_v;          // [B, Hkv, K, D] contiguous
  void* grad_bias;       // as bias, contiguous, computed type, zero before; or null: not wanted
  AttentionBiasStrides grad_bias_strides;
  AttentionSizes sizes;
  AttentionStrides q_strides, k_strides, v_strides, out_strides, grad_out_strides;
  AttentionScores scores;
};

// Both throw std::bad_alloc when their scratch (O((S + K) * D) per thread) cannot be had.
void attention_forward(DType dtype, const AttentionForward& arguments);
void attention_backward(DType dtype, const AttentionBackward& arguments);

}  // namespace wordkiln
