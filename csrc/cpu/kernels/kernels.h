// What the files of this folder export to table.cpp, each once per element type.
#pragma once

#include "cpu/table.h"

namespace wordkiln::cpu::WORDKILN_ISA {

void attention_forward_float32(const AttentionForward& arguments);
void attention_forward_float64(const AttentionForward& arguments);
void attention_backward_float32(const AttentionBackward& arguments);
void attention_backward_float64(const AttentionBackward& arguments);
void lstm_forward_float32(const LstmForward& arguments);
void lstm_forward_float64(const LstmForward& arguments);
void lstm_backward_float32(const LstmBackward& arguments);
void lstm_backward_float64(const LstmBackward& arguments);
void linear_cross_entropy_float32(const LinearCrossEntropy& arguments);
void linear_cross_entropy_float64(const LinearCrossEntropy& arguments);
void rms_norm_forward_float32(const RmsNormForward& arguments);
void rms_norm_backward_float32(const RmsNormBackward& arguments);
void swiglu_forward_float32(const SwigluForward& arguments);
void swiglu_backward_float32(const SwigluBackward& arguments);
void rms_norm_forward_float64(const RmsNormForward& arguments);
void rms_norm_backward_float64(const RmsNormBackward& arguments);
void swiglu_forward_float64(const SwigluForward& arguments);
void swiglu_backward_float64(const SwigluBackward& arguments);
size_t linear_packed_bytes(LinearStorage storage, const LinearSizes& sizes);
void linear_pack(LinearStorage storage, const LinearSizes& sizes, const float* weight, void* packed);
void linear_run(const LinearRun& arguments);
void elementwise_float32(ElementwiseFunction function, const void* x, void* out, int64_t count);
void elementwise_float64(ElementwiseFunction function, const void* x, void* out, int64_t count);

}  // namespace wordkiln::cpu::WORDKILN_ISA
