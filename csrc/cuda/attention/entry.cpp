// The functions of wordkiln/cuda/attention.h: which kernel a call gets.
#include <algorithm>

#include "cuda/attention/kernels.h"
#include "cuda/device/launch.h"
#include "wordkiln/cuda/attention.h"

namespace wordkiln::cuda {
namespace {

// Rows of queries times heads that share a key head, up to which the keys are split.
constexpr int64_t kDecodeRows = 16;
constexpr int64_t kLeastKeys = 32;  // of a split

bool is_decoding(const AttentionForward& a) {
  if (a.pages.table != nullptr) return true;
  const bool simple = a.scores.query_offsets == nullptr && a.scores.dropout == 0;
  return simple && a.sizes.heads / a.sizes.kv_heads * a.sizes.queries <= kDecodeRows;
}

// As many warps as a multiprocessor's shared memory has room for, as long as each has some keys: one more would have
// the device to itself when all others are done.
int splits_of(const AttentionForward& a) {
  const int64_t warps = int64_t{a.sizes.head_size <= 64 ? 16 : 8} * device::processors();
  const int64_t items =
      a.sizes.batch * a.sizes.kv_heads * ((a.sizes.heads / a.sizes.kv_heads * a.sizes.queries + 15) / 16);
  const int64_t most = std::max<int64_t>(1, (a.sizes.keys + kLeastKeys - 1) / kLeastKeys);
  return static_cast<int>(std::clamp<int64_t>(warps / items, 1, most));
}

ForwardParams forward_params(const AttentionForward& a, void* workspace) {
  return {
      .scores = score_params(a.sizes, a.scores),
      .q = a.q,
      .k = a.k,
      .v = a.v,
      .out = a.out,
      .lse = static_cast<float*>(a.lse),
      .q_strides = a.q_strides,
      .k_strides = a.k_strides,
      .v_strides = a.v_strides,
      .out_strides = a.out_strides,
      .pages = a.pages,
      .parts = static_cast<float*>(workspace),
      .splits = is_decoding(a) ? splits_of(a) : 1,
  };
}

bool is_empty(const AttentionSizes& s) { return s.batch * s.heads * s.queries == 0; }

}  // namespace

int64_t attention_forward_workspace(DType, const AttentionForward& a) {
  if (is_empty(a.sizes) || !is_decoding(a)) return 0;
  return int64_t{4} * a.sizes.batch * a.sizes.heads * a.sizes.queries * splits_of(a) * (a.sizes.head_size + 2);
}

void attention_forward(DType dtype, const AttentionForward& a, void* workspace, Stream stream) {
  if (is_empty(a.sizes)) return;
  const ForwardParams p = forward_params(a, workspace);
  const bool decoding = is_decoding(a);
  switch (dtype) {
    case DType::kFloat32:
      return decoding ? attention_decode_float32(p, stream) : attention_forward_float32(p, stream);
    case DType::kBfloat16:
      return decoding ? attention_decode_bfloat16(p, stream) : attention_forward_bfloat16(p, stream);
    case DType::kFloat16:
      return decoding ? attention_decode_float16(p, stream) : attention_forward_float16(p, stream);
  }
}

int64_t attention_backward_workspace(DType, const AttentionBackward& a) {
  const int64_t batch = a.scores.query_offsets == nullptr ? a.sizes.batch : 1;
  return int64_t{4} * batch * a.sizes.heads * a.sizes.queries;
}

void attention_backward(DType dtype, const AttentionBackward& a, void* workspace, Stream stream) {
  if (a.sizes.batch * a.sizes.heads * (a.sizes.queries + a.sizes.keys) == 0) return;
  const BackwardParams p = {
      .scores = score_params(a.sizes, a.scores),
      .q = a.q,
      .k = a.k,
      .v = a.v,
      .out = a.out,
      .lse = static_cast<const float*>(a.lse),
      .grad_out = a.grad_out,
      .grad_lse = static_cast<const float*>(a.grad_lse),
      .grad_q = a.grad_q,
      .grad_k = a.grad_k,
      .grad_v = a.grad_v,
      .q_strides = a.q_strides,
      .k_strides = a.k_strides,
      .v_strides = a.v_strides,
      .out_strides = a.out_strides,
      .grad_out_strides = a.grad_out_strides,
      .deltas = static_cast<float*>(workspace),
  };
  switch (dtype) {
    case DType::kFloat32:
      return attention_backward_float32(p, stream);
    case DType::kBfloat16:
      return attention_backward_bfloat16(p, stream);
    case DType::kFloat16:
      return attention_backward_float16(p, stream);
  }
}

}  // namespace wordkiln::cuda
