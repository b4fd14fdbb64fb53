// The functions of wordkiln/cuda/attention.h: which kernel a call gets.
#include "cuda/attention/forward.h"
#include "cuda/attention/kernels.h"

namespace wordkiln::cuda {

int64_t attention_forward_workspace(DType, const AttentionForward&) { return 0; }

void attention_forward(DType dtype, const AttentionForward& a, void*, Stream stream) {
  if (a.sizes.batch * a.sizes.heads * a.sizes.queries == 0) return;
  const ForwardParams p = {
      .scores = to_params(a.sizes, a.scores),
      .q = a.q,
      .k = a.k,
      .v = a.v,
      .out = a.out,
      .lse = static_cast<float*>(a.lse),
      .q_strides = a.q_strides,
      .k_strides = a.k_strides,
      .v_strides = a.v_strides,
      .out_strides = a.out_strides,
  };
  if (dtype == DType::kBfloat16) return attention_forward_bfloat16(p, stream);
  attention_forward_float16(p, stream);
}

}  // namespace wordkiln::cuda
