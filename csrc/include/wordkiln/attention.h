// Scaled dot-product attention on the CPU, forward and backward, without the [S, K] matrix.
//
// Sizes: B batch rows, H query heads, Hkv key heads (H a multiple of Hkv), S queries, K keys, D head size (1 to 256).
// Every pointer is to elements of `dtype`; the last dimension of each tensor is contiguous, the others have strides.
// Inputs and outputs must not overlap.
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

struct AttentionForward {
  const void* q;  // [B, H, S, D]
  const void* k;  // [B, Hkv, K, D]
  const void* v;  // [B, Hkv, K, D]
  void* out;      // [B, H, S, D]; 0 where a query sees no key
  void* lse;      // [B, H, S] contiguous: natural log of the softmax's denominator; -inf where no key is seen
  const int64_t* key_lengths;  // [B], each 0 to K: keys beyond are never read; or null: K for every row
  AttentionSizes sizes;
  AttentionStrides q_strides, k_strides, v_strides, out_strides;
  bool causal;  // query i of row b sees keys j <= i + key_lengths[b] - S
  double scale;
};

struct AttentionBackward {
  const void* q;               // [B, H, S, D]
  const void* k;               // [B, Hkv, K, D]
  const void* v;               // [B, Hkv, K, D]
  const void* out;             // [B, H, S, D], of the forward pass
  const void* lse;             // [B, H, S] contiguous, of the forward pass
  const void* grad_out;        // [B, H, S, D]
  void* grad_q;                // [B, H, S, D] contiguous
  void* grad_k;                // [B, Hkv, K, D] contiguous; 0 for keys that no query sees
  void* grad_v;                // [B, Hkv, K, D] contiguous
  const int64_t* key_lengths;  // [B] or null
  AttentionSizes sizes;
  AttentionStrides q_strides, k_strides, v_strides, out_strides, grad_out_strides;
  bool causal;
  double scale;
};

// Both throw std::bad_alloc when their scratch (O((S + K) * D) per thread) cannot be had.
void attention_forward(DType dtype, const AttentionForward& arguments);
void attention_backward(DType dtype, const AttentionBackward& arguments);

}  // namespace wordkiln
