#include "cuda/cross_entropy/softmax_gradient.h"

namespace wordkiln::cuda {

void softmax_gradient(DType dtype, const SoftmaxGradient& arguments, Stream stream) {
  switch (dtype) {
    case DType::kFloat32:
      return launch_softmax_gradient<float>(arguments, stream);
    case DType::kBfloat16:
      return launch_softmax_gradient<device::Bfloat16>(arguments, stream);
    case DType::kFloat16:
      return launch_softmax_gradient<device::Float16>(arguments, stream);
  }
}

}  // namespace wordkiln::cuda
