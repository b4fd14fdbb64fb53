// What the files of this folder export to table.cpp, each once per element type.
#pragma once

#include "cpu/table.h"

namespace wordkiln::cpu::WORDKILN_ISA {

void attention_forward_float32(const AttentionForward& arguments);
void attention_forward_float64(const AttentionForward& arguments);
void attention_backward_float32(const AttentionBackward& arguments);
void attention_backward_float64(const AttentionBackward& arguments);
void recurrent_forward_float32(const RecurrentForward& arguments);
void recurrent_forward_float64(const RecurrentForward& arguments);
void recurrent_backward_float32(const RecurrentBackward& arguments);
void recurrent_backward_float64(const RecurrentBackward& arguments);
void elementwise_float32(ElementwiseFunction function, const void* x, void* out, int64_t count);
void elementwise_float64(ElementwiseFunction function, const void* x, void* out, int64_t count);
void elementwise_bfloat16(ElementwiseFunction function, const void* x, void* out, int64_t count);
extern const StepKernels step_kernels;

}  // namespace wordkiln::cpu::WORDKILN_ISA
