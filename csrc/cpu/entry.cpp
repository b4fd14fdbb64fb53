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

}  // namespace wordkiln
