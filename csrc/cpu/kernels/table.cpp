// The table of one instruction set: the files of this folder are compiled once for each, with WORDKILN_ISA naming it.
#include "cpu/table.h"

#include "cpu/kernels/kernels.h"

#define WORDKILN_STRING_(name) #name
#define WORDKILN_STRING(name) WORDKILN_STRING_(name)

namespace wordkiln::cpu::WORDKILN_ISA {

constexpr KernelTable kTable = {
    .isa = WORDKILN_STRING(WORDKILN_ISA),
    .float32 =
        {
            .attention_forward = attention_forward_float32,
            .attention_backward = attention_backward_float32,
            .rotary = rotary_float32,
            .recurrent_forward = recurrent_forward_float32,
            .recurrent_backward = recurrent_backward_float32,
            .cell_forward = cell_forward_float32,
            .cell_backward = cell_backward_float32,
            .linear_cross_entropy = linear_cross_entropy_float32,
            .rms_norm_forward = rms_norm_forward_float32,
            .rms_norm_backward = rms_norm_backward_float32,
            .gelu_forward = gelu_forward_float32,
            .gelu_backward = gelu_backward_float32,
            .swiglu_forward = swiglu_forward_float32,
            .swiglu_backward = swiglu_backward_float32,
            .elementwise = elementwise_float32,
        },
    .float64 =
        {
            .attention_forward = attention_forward_float64,
            .attention_backward = attention_backward_float64,
            .rotary = rotary_float64,
            .recurrent_forward = recurrent_forward_float64,
            .recurrent_backward = recurrent_backward_float64,
            .cell_forward = cell_forward_float64,
            .cell_backward = cell_backward_float64,
            .linear_cross_entropy = linear_cross_entropy_float64,
            .rms_norm_forward = rms_norm_forward_float64,
            .rms_norm_backward = rms_norm_backward_float64,
            .gelu_forward = gelu_forward_float64,
            .gelu_backward = gelu_backward_float64,
            .swiglu_forward = swiglu_forward_float64,
            .swiglu_backward = swiglu_backward_float64,
            .elementwise = elementwise_float64,
        },
    .bfloat16 =
        {
            .attention_forward = attention_forward_bfloat16,
            .attention_backward = attention_backward_bfloat16,
            .rotary = rotary_bfloat16,
            .rms_norm_forward = rms_norm_forward_bfloat16,
            .rms_norm_backward = rms_norm_backward_bfloat16,
            .gelu_forward = gelu_forward_bfloat16,
            .gelu_backward = gelu_backward_bfloat16,
            .swiglu_forward = swiglu_forward_bfloat16,
            .swiglu_backward = swiglu_backward_bfloat16,
            .elementwise = elementwise_bfloat16,
        },
    .linear_packed_bytes = linear_packed_bytes,
    .linear_pack = linear_pack,
    .linear_run = linear_run,
    .linear_unpack = linear_unpack,
    .step = &step_kernels,
    .decoder = &decoder_kernels,
};

extern const KernelTable table;
const KernelTable table = kTable;

#if defined(__AMX_TILE__)
extern const KernelTable amx_table;
const KernelTable amx_table = [] {
  KernelTable amx = kTable;
  amx.isa = "amx";
  amx.bfloat16.attention_forward = attention_forward_tiles;
  amx.bfloat16.attention_backward = attention_backward_tiles;
  amx.bfloat16.recurrent_forward = recurrent_forward_tiles;
  amx.bfloat16.recurrent_backward = recurrent_backward_tiles;
  amx.bfloat16.linear_cross_entropy = linear_cross_entropy_tiles;
  amx.decoder = &decoder_kernels_amx;
  return amx;
}();
#endif

}  // namespace wordkiln::cpu::WORDKILN_ISA
