#include "cuda/attention/decode.h"
#include "cuda/attention/kernels.h"

namespace wordkiln::cuda {

void attention_decode_float32(const ForwardParams& p, Stream stream) { launch_decode<float>(p, stream); }

}  // namespace wordkiln::cuda
