// The passes by type, each compiled in a file of its own.
#pragma once

#include "wordkiln/cuda/recurrent.h"

namespace wordkiln::cuda {

void recurrent_forward_float32(const LayerForward& a, void* workspace, Stream stream);
void recurrent_forward_bfloat16(const LayerForward& a, void* workspace, Stream stream);
void recurrent_forward_float16(const LayerForward& a, void* workspace, Stream stream);
void recurrent_backward_float32(const LayerBackward& a, void* workspace, Stream stream);
void recurrent_backward_bfloat16(const LayerBackward& a, void* workspace, Stream stream);
void recurrent_backward_float16(const LayerBackward& a, void* workspace, Stream stream);

}  // namespace wordkiln::cuda
