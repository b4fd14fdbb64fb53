#include "cuda/recurrent/layer.h"

namespace wordkiln::cuda {

void recurrent_forward_bfloat16(const LayerForward& a, void* workspace, Stream stream) {
  run_forward<device::Bfloat16>(a, workspace, stream);
}

}  // namespace wordkiln::cuda
