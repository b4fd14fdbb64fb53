#include "cuda/attention/kernels.h"
#include "cuda/attention/plain_forward.h"

namespace wordkiln::cuda {

void attention_forward_float32(const ForwardParams& p, Stream stream) {
  if (p.scores.head_size <= 32) return launch_plain_forward<1>(p, stream);
  if (p.scores.head_size <= 64) return launch_plain_forward<2>(p, stream);
  if (p.scores.head_size <= 128) return launch_plain_forward<4>(p, stream);
  launch_plain_forward<8>(p, stream);
}

}  // namespace wordkiln::cuda
