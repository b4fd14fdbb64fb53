#include "cuda/attention/forward.h"
#include "cuda/attention/kernels.h"

namespace wordkiln::cuda {

void attention_forward_float32(const ForwardParams& p, Stream stream) { launch_forward<float>(p, stream); }

}  // namespace wordkiln::cuda
