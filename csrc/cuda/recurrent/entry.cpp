// The functions of wordkiln/cuda/recurrent.h: which types' kernels a call gets.
#include "cuda/recurrent/kernels.h"
#include "cuda/recurrent/passes.h"

namespace wordkiln::cuda {
namespace {

bool is_empty(const RecurrentSizes& s) { return s.steps * s.batch * s.hidden == 0; }

// 2 of [B, parts of P], and what stands before them.
int64_t workspace_bytes(DType dtype, const RecurrentSizes& s, int64_t parts) {
  if (is_empty(s)) return 0;
  const int64_t element = dtype == DType::kFloat32 ? 4 : 2;
  return kCounterBytes + 2 * s.batch * parts * weight_pitch(dtype, s.hidden) * element;
}

}  // namespace

int64_t weight_pitch(DType dtype, int64_t hidden) {
  return dtype == DType::kFloat32 ? pitch_of<float>(hidden) : pitch_of<device::Bfloat16>(hidden);
}

int64_t recurrent_forward_workspace(DType dtype, const LayerForward& a) { return workspace_bytes(dtype, a.sizes, 1); }

int64_t recurrent_backward_workspace(DType dtype, const LayerBackward& a) {
  return workspace_bytes(dtype, a.sizes, gates_count(a.kind));
}

void recurrent_forward(DType dtype, const LayerForward& a, void* workspace, Stream stream) {
  if (is_empty(a.sizes)) return;
  switch (dtype) {
    case DType::kFloat32:
      return recurrent_forward_float32(a, workspace, stream);
    case DType::kBfloat16:
      return recurrent_forward_bfloat16(a, workspace, stream);
    case DType::kFloat16:
      return recurrent_forward_float16(a, workspace, stream);
  }
}

void recurrent_backward(DType dtype, const LayerBackward& a, void* workspace, Stream stream) {
  if (is_empty(a.sizes)) return;
  switch (dtype) {
    case DType::kFloat32:
      return recurrent_backward_float32(a, workspace, stream);
    case DType::kBfloat16:
      return recurrent_backward_bfloat16(a, workspace, stream);
    case DType::kFloat16:
      return recurrent_backward_float16(a, workspace, stream);
  }
}

}  // namespace wordkiln::cuda
