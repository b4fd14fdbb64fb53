#include "cuda/attention/kernels.h"
#include "cuda/attention/plain_backward.h"

namespace wordkiln::cuda {

void attention_backward_float32(const BackwardParams& p, Stream stream) {
  launch_deltas<float>(p, stream);
  if (p.scores.head_size <= 32) return launch_plain_backward<1>(p, stream);
  if (p.scores.head_size <= 64) return launch_plain_backward<2>(p, stream);
  if (p.scores.head_size <= 128) return launch_plain_backward<4>(p, stream);
  launch_plain_backward<8>(p, stream);
}

}  // namespace wordkiln::cuda
