#include "cuda/attention/forward.h"
#include "cuda/attention/kernels.h"

namespace wordkiln::cuda {

void attention_forward_float16(const ForwardParams& p, Stream stream) { launch_forward<device::Float16>(p, stream); }

}  // namespace wordkiln::cuda
