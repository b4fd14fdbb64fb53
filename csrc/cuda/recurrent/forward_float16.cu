#include "cuda/recurrent/layer.h"

namespace wordkiln::cuda {

void recurrent_forward_float16(const LayerForward& a, void* workspace, Stream stream) {
  run_forward<device::Float16>(a, workspace, stream);
}

}  // namespace wordkiln::cuda
