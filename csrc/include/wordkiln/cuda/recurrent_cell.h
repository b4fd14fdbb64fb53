// A step with layer norms or zoneout on a GPU: what wordkiln/recurrent_cell.h defines, over memory of the current
// device, of float32, bfloat16 or float16 (the arrays marked there as wide: float32). Nothing is allocated and nothing
// waits: the kernel is put on `stream`.
//
// Lengths lie on the device and cannot be looked at without waiting: one below 0 counts as 0, one above T as T.
#pragma once

#include "wordkiln/cuda/runtime.h"
#include "wordkiln/recurrent_cell.h"

namespace wordkiln::cuda {

void cell_forward(DType dtype, const CellForward& arguments, Stream stream);
void cell_backward(DType dtype, const CellBackward& arguments, Stream stream);

}  // namespace wordkiln::cuda
