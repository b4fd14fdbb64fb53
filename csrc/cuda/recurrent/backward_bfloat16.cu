#include "cuda/recurrent/layer.h"

namespace wordkiln::cuda {

void recurrent_backward_bfloat16(const LayerBackward& a, void* workspace, Stream stream) {
  run_backward<device::Bfloat16>(a, workspace, stream);
}

}  // namespace wordkiln::cuda
