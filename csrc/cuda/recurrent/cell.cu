// The functions of wordkiln/cuda/recurrent_cell.h.
#include "cuda/recurrent/cell_backward.h"
#include "cuda/recurrent/cell_forward.h"

namespace wordkiln::cuda {
namespace {

bool is_empty(const RecurrentSizes& s) { return s.batch * s.hidden == 0; }

}  // namespace

void cell_forward(DType dtype, const CellForward& arguments, Stream stream) {
  if (is_empty(arguments.sizes)) return;
  switch (dtype) {
    case DType::kFloat32:
      return launch_cell_forward<float>(arguments, stream);
    case DType::kBfloat16:
      return launch_cell_forward<device::Bfloat16>(arguments, stream);
    case DType::kFloat16:
      return launch_cell_forward<device::Float16>(arguments, stream);
  }
}

void cell_backward(DType dtype, const CellBackward& arguments, Stream stream) {
  if (is_empty(arguments.sizes)) return;
  switch (dtype) {
    case DType::kFloat32:
      return launch_cell_backward<float>(arguments, stream);
    case DType::kBfloat16:
      return launch_cell_backward<device::Bfloat16>(arguments, stream);
    case DType::kFloat16:
      return launch_cell_backward<device::Float16>(arguments, stream);
  }
}

}  // namespace wordkiln::cuda
