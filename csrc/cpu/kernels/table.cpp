// The table of one instruction set: the files of this folder are compiled once for each, with WORDKILN_ISA naming it.
#include "cpu/table.h"

#include "cpu/kernels/kernels.h"

#define WORDKILN_STRING_(name) #name
#define WORDKILN_STRING(name) WORDKILN_STRING_(name)

namespace wordkiln::cpu::WORDKILN_ISA {

extern const KernelTable table;
const KernelTable table = {
    .isa = WORDKILN_STRING(WORDKILN_ISA),
    .float32 =
        {
            .attention_forward = attention_forward_float32,
            .attention_backward = attention_backward_float32,
            .recurrent_forward = recurrent_forward_float32,
            .recurrent_backward = recurrent_backward_float32,
            .elementwise = elementwise_float32,
        },
    .float64 =
        {
            .attention_forward = attention_forward_float64,
            .attention_backward = attention_backward_float64,
            .recurrent_forward = recurrent_forward_float64,
            .recurrent_backward = recurrent_backward_float64,
            .elementwise = elementwise_float64,
        },
    .bfloat16 =
        {
            .elementwise = elementwise_bfloat16,
        },
    .step = &step_kernels,
};

}  // namespace wordkiln::cpu::WORDKILN_ISA
