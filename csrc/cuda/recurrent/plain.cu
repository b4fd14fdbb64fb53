#include "cuda/recurrent/layer.h"

namespace wordkiln::cuda {

void recurrent_forward_float32(const LayerForward& a, void* workspace, Stream stream) {
  run_forward<float>(a, workspace, stream);
}

void recurrent_backward_float32(const LayerBackward& a, void* workspace, Stream stream) {
  run_backward<float>(a, workspace, stream);
}

}  // namespace wordkiln::cuda
