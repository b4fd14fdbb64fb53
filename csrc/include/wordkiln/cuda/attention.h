// Attention on a GPU: what wordkiln/attention.h defines, of float32, bfloat16 or float16 (lse: float32), over memory of
// the current device. Nothing is allocated and nothing waits: kernels are put on `stream` and use `workspace`, which
// must live until they are done. Rows start at multiples of 16 bytes: addresses, strides and the head size are
// multiples of 4 elements of float32, of 8 others. Heads are of at most 256 elements, of float32 128: more of them do
// not fit the shared memory of some devices.
//
// Key lengths, offsets and page tables lie on the device and cannot be looked at without waiting: those out of their
// range are brought into it, and a page that is none gives NaN. Nothing outside the tensors is ever read or written.
#pragma once

#include <cstdint>

#include "wordkiln/attention.h"
#include "wordkiln/cuda/runtime.h"

namespace wordkiln::cuda {

// Scratch in bytes, aligned to 16.
int64_t attention_forward_workspace(DType dtype, const AttentionForward& arguments);
int64_t attention_backward_workspace(DType dtype, const AttentionBackward& arguments);

void attention_forward(DType dtype, const AttentionForward& arguments, void* workspace, Stream stream);

// grad_bias must be null.
void attention_backward(DType dtype, const AttentionBackward& arguments, void* workspace, Stream stream);

}  // namespace wordkiln::cuda
