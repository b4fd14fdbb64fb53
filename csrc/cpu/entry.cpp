// The functions of include/: each takes its kernel from the table in use.
#include "cpu/table.h"

namespace wordkiln {
namespace {

const cpu::KernelSet& kernels_for(DType dtype) {
  const cpu::KernelTable& table = cpu::kernels();
  return dtype == DType::kFloat32 ? table.float32 : table.float64;
}

}  // namespace

void attention_forward(DType dtype, const AttentionForward& arguments) {
  kernels_for(dtype).attention_forward(arguments);
}

void attention_backward(DType dtype, const AttentionBackward& arguments) {
  kernels_for(dtype).attention_backward(arguments);
}

void lstm_forward(DType dtype, const LstmForward& arguments) { kernels_for(dtype).lstm_forward(arguments); }

void lstm_backward(DType dtype, const LstmBackward& arguments) { kernels_for(dtype).lstm_backward(arguments); }

void elementwise(DType dtype, ElementwiseFunction function, const void* x, void* out, int64_t count) {
  kernels_for(dtype).elementwise(function, x, out, count);
}

void linear_cross_entropy(DType dtype, const LinearCrossEntropy& arguments) {
  kernels_for(dtype).linear_cross_entropy(arguments);
}

void rms_norm_forward(DType dtype, const RmsNormForward& arguments) { kernels_for(dtype).rms_norm_forward(arguments); }

void rms_norm_backward(DType dtype, const RmsNormBackward& arguments) {
  kernels_for(dtype).rms_norm_backward(arguments);
}

void swiglu_forward(DType dtype, const SwigluForward& arguments) { kernels_for(dtype).swiglu_forward(arguments); }

void swiglu_backward(DType dtype, const SwigluBackward& arguments) { kernels_for(dtype).swiglu_backward(arguments); }

size_t linear_packed_bytes(LinearStorage storage, const LinearSizes& sizes) {
  return cpu::kernels().linear_packed_bytes(storage, sizes);
}

void linear_pack(LinearStorage storage, const LinearSizes& sizes, const float* weight, void* packed) {
  cpu::kernels().linear_pack(storage, sizes, weight, packed);
}

void linear_run(const LinearRun& arguments) { cpu::kernels().linear_run(arguments); }

}  // namespace wordkiln
