#include "cuda/attention/backward.h"
#include "cuda/attention/kernels.h"

namespace wordkiln::cuda {

void attention_backward_bfloat16(const BackwardParams& p, Stream stream) {
  launch_backward<device::Bfloat16>(p, stream);
}

}  // namespace wordkiln::cuda
