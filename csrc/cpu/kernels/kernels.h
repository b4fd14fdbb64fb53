// What the files of this folder export to table.cpp, each once per element type.
#pragma once

#include "cpu/table.h"

namespace wordkiln::cpu::WORDKILN_ISA {

void attention_forward_float32(const AttentionForward& arguments);
void attention_forward_float64(const AttentionForward& arguments);
void attention_forward_bfloat16(const AttentionForward& arguments);
void attention_forward_tiles(const AttentionForward& arguments);
void attention_backward_tiles(const AttentionBackward& arguments);
void attention_backward_float32(const AttentionBackward& arguments);
void attention_backward_float64(const AttentionBackward& arguments);
void attention_backward_bfloat16(const AttentionBackward& arguments);
void rotary_float32(const Rotary& arguments);
void rotary_float64(const Rotary& arguments);
void rotary_bfloat16(const Rotary& arguments);
void recurrent_forward_float32(const RecurrentForward& arguments);
void recurrent_forward_float64(const RecurrentForward& arguments);
void recurrent_forward_tiles(const RecurrentForward& arguments);
void recurrent_backward_float32(const RecurrentBackward& arguments);
void recurrent_backward_float64(const RecurrentBackward& arguments);
void recurrent_backward_tiles(const RecurrentBackward& arguments);
void cell_forward_float32(const CellForward& arguments);
void cell_forward_float64(const CellForward& arguments);
void cell_backward_float32(const CellBackward& arguments);
void cell_backward_float64(const CellBackward& arguments);
void linear_cross_entropy_float32(const LinearCrossEntropy& arguments);
void linear_cross_entropy_float64(const LinearCrossEntropy& arguments);
void linear_cross_entropy_tiles(const LinearCrossEntropy& arguments);
void rms_norm_forward_float32(const RmsNormForward& arguments);
void rms_norm_backward_float32(const RmsNormBackward& arguments);
void swiglu_forward_float32(const SwigluForward& arguments);
void swiglu_backward_float32(const SwigluBackward& arguments);
void rms_norm_forward_float64(const RmsNormForward& arguments);
void rms_norm_forward_bfloat16(const RmsNormForward& arguments);
void rms_norm_backward_float64(const RmsNormBackward& arguments);
void rms_norm_backward_bfloat16(const RmsNormBackward& arguments);
void gelu_forward_float32(const GeluForward& arguments);
void gelu_backward_float32(const GeluBackward& arguments);
void gelu_forward_float64(const GeluForward& arguments);
void gelu_backward_float64(const GeluBackward& arguments);
void gelu_forward_bfloat16(const GeluForward& arguments);
void gelu_backward_bfloat16(const GeluBackward& arguments);
void swiglu_forward_float64(const SwigluForward& arguments);
void swiglu_forward_bfloat16(const SwigluForward& arguments);
void swiglu_backward_float64(const SwigluBackward& arguments);
void swiglu_backward_bfloat16(const SwigluBackward& arguments);
size_t linear_packed_bytes(LinearStorage storage, const LinearSizes& sizes);
void linear_pack(LinearStorage storage, const LinearSizes& sizes, const float* weight, void* packed);
void linear_run(const LinearRun& arguments);
void linear_unpack(LinearStorage storage, const LinearSizes& sizes, const void* packed, const int64_t* outputs,
                   int64_t count, float* out);
void elementwise_float32(ElementwiseFunction function, const void* x, void* out, int64_t count);
void elementwise_float64(ElementwiseFunction function, const void* x, void* out, int64_t count);
void elementwise_bfloat16(ElementwiseFunction function, const void* x, void* out, int64_t count);
int64_t decoder_packed_bytes(LinearStorage storage, int64_t outputs, int64_t inputs);
bool decoder_pack(LinearStorage storage, int64_t outputs, int64_t inputs, const EncodedMatrix& weight,
                  const EncodedMatrix& gate, char* packed);
int64_t decoder_first_infinite(int64_t outputs, int64_t inputs, const EncodedMatrix& weight);
extern const StepKernels step_kernels;
extern const DecoderKernels decoder_kernels;
extern const DecoderKernels decoder_kernels_amx;  // where the compiler may use the tile unit

}  // namespace wordkiln::cpu::WORDKILN_ISA
