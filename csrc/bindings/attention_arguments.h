// What the bindings of attention on the CPU and on a GPU share. What lies behind the addresses is not looked at.
#pragma once

#include <cstdint>
#include <tuple>

#include "wordkiln/attention.h"

namespace wordkiln::bindings {

constexpr int64_t kLargestHead = 256;

using Sizes = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
using Strides = std::tuple<int64_t, int64_t, int64_t>;
using BiasStrides = std::tuple<int64_t, int64_t, int64_t, int64_t>;

AttentionSizes to_sizes(const Sizes& sizes);

AttentionStrides to_strides(const Strides& strides);

AttentionBiasStrides to_bias_strides(const BiasStrides& strides);

// The arguments that both passes have behind `causal` and `scale`.
struct More {
  int64_t window;
  double soft_cap;
  uintptr_t bias;
  BiasStrides bias_strides;
  uintptr_t slopes;
  double dropout;
  uint64_t seed;
  uint32_t offset;
  uintptr_t query_offsets, key_offsets;
};

AttentionScores to_scores(uintptr_t key_lengths, bool causal, double scale, const More& more);

// `table` 0: the cache is not paged.
AttentionPages to_pages(uintptr_t table, int64_t pages, int64_t page_size, int64_t count, const AttentionSizes& sizes,
                        const More& more);

// How many elements the pointers must lead to; packed rows of the batch share one long row.
int64_t elements(const AttentionSizes& sizes, bool packed, int64_t heads, int64_t rows);

}  // namespace wordkiln::bindings
