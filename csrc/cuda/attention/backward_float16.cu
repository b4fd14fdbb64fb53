#include "cuda/attention/backward.h"
#include "cuda/attention/kernels.h"

namespace wordkiln::cuda {

void attention_backward_float16(const BackwardParams& p, Stream stream) { launch_backward<device::Float16>(p, stream); }

}  // namespace wordkiln::cuda
