// The kernels of attention by type, each compiled in a file of its own.
#pragma once

#include "cuda/attention/params.h"
#include "wordkiln/cuda/runtime.h"

namespace wordkiln::cuda {

void attention_forward_float32(const ForwardParams& p, Stream stream);
void attention_forward_bfloat16(const ForwardParams& p, Stream stream);
void attention_forward_float16(const ForwardParams& p, Stream stream);
void attention_decode_float32(const ForwardParams& p, Stream stream);
void attention_decode_bfloat16(const ForwardParams& p, Stream stream);
void attention_decode_float16(const ForwardParams& p, Stream stream);
void attention_backward_float32(const BackwardParams& p, Stream stream);
void attention_backward_bfloat16(const BackwardParams& p, Stream stream);
void attention_backward_float16(const BackwardParams& p, Stream stream);

}  // namespace wordkiln::cuda
