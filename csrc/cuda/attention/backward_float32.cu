#include "cuda/attention/backward.h"
#include "cuda/attention/kernels.h"

namespace wordkiln::cuda {

void attention_backward_float32(const BackwardParams& p, Stream stream) { launch_backward<float>(p, stream); }

}  // namespace wordkiln::cuda
