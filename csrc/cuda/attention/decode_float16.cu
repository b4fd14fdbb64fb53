#include "cuda/attention/decode.h"
#include "cuda/attention/kernels.h"

namespace wordkiln::cuda {

void attention_decode_float16(const ForwardParams& p, Stream stream) { launch_decode<device::Float16>(p, stream); }

}  // namespace wordkiln::cuda
