#include "cuda/attention/params.h"

#include <algorithm>

namespace wordkiln::cuda {

ScoreParams score_params(const AttentionSizes& sizes, const AttentionScores& scores) {
  const bool capped = scores.soft_cap > 0;
  const double log2e = 1.44269504088896340736;
  return {
      .key_lengths = scores.key_lengths,
      .query_offsets = scores.query_offsets,
      .key_offsets = scores.key_offsets,
      .batch = static_cast<int>(sizes.batch),
      .heads = static_cast<int>(sizes.heads),
      .kv_heads = static_cast<int>(sizes.kv_heads),
      .queries = static_cast<int>(sizes.queries),
      .keys = static_cast<int>(sizes.keys),
      .head_size = static_cast<int>(sizes.head_size),
      .causal = scores.causal,
      .window = static_cast<int>(std::min<int64_t>(scores.window, INT32_MAX)),
      .scale = static_cast<float>(scores.scale),
      .to_log2 = static_cast<float>(capped ? scores.scale / scores.soft_cap : scores.scale * log2e),
      .cap = static_cast<float>(scores.soft_cap * log2e),
      .bias = scores.bias,
      .bias_strides = scores.bias_strides,
      .slopes = scores.slopes,
      .drop_below = static_cast<uint32_t>(scores.dropout * 4294967296.0),
      .keep = static_cast<float>(1 / (1 - scores.dropout)),
      .seed = scores.seed,
      .offset = scores.offset,
  };
}

}  // namespace wordkiln::cuda
