// The functions of include/: each takes its kernel from the table in use.
#include <stdexcept>
#include <string>

#include "cpu/table.h"

namespace wordkiln {
namespace {

const cpu::KernelSet& kernels_for(DType dtype) {
  const cpu::KernelTable& table = cpu::kernels();
  switch (dtype) {
    case DType::kFloat32:
      return table.float32;
    case DType::kFloat64:
      return table.float64;
    case DType::kBfloat16:
      return table.bfloat16;
  }
  __builtin_unreachable();
}

const char* name_of(DType dtype) {
  return dtype == DType::kFloat32 ? "float32" : dtype == DType::kFloat64 ? "float64" : "bfloat16";
}

// Calls the kernel of a type; a type without one is the caller's error, not a call through null.
template <typename Kernel, typename... Arguments>
void call(const char* name, DType dtype, Kernel cpu::KernelSet::* member, const Arguments&... arguments) {
  const Kernel kernel = kernels_for(dtype).*member;
  if (kernel == nullptr) {
    throw std::invalid_argument(std::string(name) + ": there is no kernel for dtype='" + name_of(dtype) + "'");
  }
  kernel(arguments...);
}

}  // namespace

void attention_forward(DType dtype, const AttentionForward& arguments) {
  call("attention_forward", dtype, &cpu::KernelSet::attention_forward, arguments);
}

void attention_backward(DType dtype, const AttentionBackward& arguments) {
  call("attention_backward", dtype, &cpu::KernelSet::attention_backward, arguments);
}

bool has_recurrent(DType dtype) { return kernels_for(dtype).recurrent_forward != nullptr; }

void recurrent_forward(DType dtype, const RecurrentForward& arguments) {
  call("recurrent_forward", dtype, &cpu::KernelSet::recurrent_forward, arguments);
}

void recurrent_backward(DType dtype, const RecurrentBackward& arguments) {
  call("recurrent_backward", dtype, &cpu::KernelSet::recurrent_backward, arguments);
}

void cell_forward(DType dtype, const CellForward& arguments) {
  call("cell_forward", dtype, &cpu::KernelSet::cell_forward, arguments);
}

void cell_backward(DType dtype, const CellBackward& arguments) {
  call("cell_backward", dtype, &cpu::KernelSet::cell_backward, arguments);
}

void rotary(DType dtype, const Rotary& arguments) { call("rotary", dtype, &cpu::KernelSet::rotary, arguments); }

void elementwise(DType dtype, ElementwiseFunction function, const void* x, void* out, int64_t count) {
  call("elementwise", dtype, &cpu::KernelSet::elementwise, function, x, out, count);
}

bool has_linear_cross_entropy(DType dtype) { return kernels_for(dtype).linear_cross_entropy != nullptr; }

void linear_cross_entropy(DType dtype, const LinearCrossEntropy& arguments) {
  call("linear_cross_entropy", dtype, &cpu::KernelSet::linear_cross_entropy, arguments);
}

void rms_norm_forward(DType dtype, const RmsNormForward& arguments) {
  call("rms_norm_forward", dtype, &cpu::KernelSet::rms_norm_forward, arguments);
}

void rms_norm_backward(DType dtype, const RmsNormBackward& arguments) {
  call("rms_norm_backward", dtype, &cpu::KernelSet::rms_norm_backward, arguments);
}

void gelu_forward(DType dtype, const GeluForward& arguments) {
  call("gelu_forward", dtype, &cpu::KernelSet::gelu_forward, arguments);
}

void gelu_backward(DType dtype, const GeluBackward& arguments) {
  call("gelu_backward", dtype, &cpu::KernelSet::gelu_backward, arguments);
}

void swiglu_forward(DType dtype, const SwigluForward& arguments) {
  call("swiglu_forward", dtype, &cpu::KernelSet::swiglu_forward, arguments);
}

void swiglu_backward(DType dtype, const SwigluBackward& arguments) {
  call("swiglu_backward", dtype, &cpu::KernelSet::swiglu_backward, arguments);
}

size_t linear_packed_bytes(LinearStorage storage, const LinearSizes& sizes) {
  return cpu::kernels().linear_packed_bytes(storage, sizes);
}

void linear_pack(LinearStorage storage, const LinearSizes& sizes, const float* weight, void* packed) {
  cpu::kernels().linear_pack(storage, sizes, weight, packed);
}

void linear_run(const LinearRun& arguments) { cpu::kernels().linear_run(arguments); }

void linear_unpack(LinearStorage storage, const LinearSizes& sizes, const void* packed, const int64_t* outputs,
                   int64_t count, float* out) {
  cpu::kernels().linear_unpack(storage, sizes, packed, outputs, count, out);
}

}  // namespace wordkiln
