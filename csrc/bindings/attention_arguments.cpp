#include "bindings/attention_arguments.h"

#include <stdexcept>
#include <string>

#include "bindings/checks.h"

namespace wordkiln::bindings {

AttentionSizes to_sizes(const Sizes& sizes) {
  const auto [batch, heads, kv_heads, queries, keys, head_size] = sizes;
  if (head_size < 1 || head_size > kLargestHead) {
    throw std::invalid_argument("head_size=" + std::to_string(head_size) + ": must be 1 to " +
                                std::to_string(kLargestHead));
  }
  if (kv_heads < 1 || heads < 0 || heads % kv_heads != 0) {
    throw std::invalid_argument("heads=" + std::to_string(heads) +
                                ": must be a multiple of kv_heads=" + std::to_string(kv_heads));
  }
  count_elements("attention", {batch, heads, queries, keys, head_size});
  return {batch, heads, kv_heads, queries, keys, head_size};
}

AttentionStrides to_strides(const Strides& strides) {
  return {std::get<0>(strides), std::get<1>(strides), std::get<2>(strides)};
}

AttentionBiasStrides to_bias_strides(const BiasStrides& strides) {
  const auto [batch, head, row, key] = strides;
  if (key != 0 && key != 1) throw std::invalid_argument("bias: its last stride must be 0 or 1");
  return {batch, head, row, key};
}

AttentionScores to_scores(uintptr_t key_lengths, bool causal, double scale, const More& more) {
  if (more.window < 0) throw std::invalid_argument("window=" + std::to_string(more.window) + ": must be at least 0");
  if (!(more.soft_cap >= 0)) throw std::invalid_argument("soft_cap: must be at least 0");
  if (!(more.dropout >= 0 && more.dropout < 1)) throw std::invalid_argument("dropout: must be at least 0 and below 1");
  if ((more.query_offsets == 0) != (more.key_offsets == 0)) {
    throw std::invalid_argument("query_offsets, key_offsets: must be given together");
  }
  if (more.query_offsets != 0 && (key_lengths != 0 || more.bias != 0)) {
    throw std::invalid_argument("query_offsets: must come without key_lengths and bias");
  }
  return {
      .key_lengths = reinterpret_cast<const int64_t*>(key_lengths),
      .query_offsets = reinterpret_cast<const int64_t*>(more.query_offsets),
      .key_offsets = reinterpret_cast<const int64_t*>(more.key_offsets),
      .causal = causal,
      .window = more.window,
      .scale = scale,
      .soft_cap = more.soft_cap,
      .bias = to_pointer("bias", more.bias, 0),
      .bias_strides = to_bias_strides(more.bias_strides),
      .slopes = reinterpret_cast<const double*>(more.slopes),
      .dropout = more.dropout,
      .seed = more.seed,
      .offset = more.offset,
  };
}

AttentionPages to_pages(uintptr_t table, int64_t pages, int64_t page_size, int64_t count, const AttentionSizes& s,
                        const More& more) {
  if (table == 0) return {nullptr, 0, 0, 0};
  if (page_size < 1) throw std::invalid_argument("page_size=" + std::to_string(page_size) + ": must be at least 1");
  if (pages < 0 || pages < (s.keys + page_size - 1) / page_size) {
    throw std::invalid_argument("page_table: its " + std::to_string(pages) + " pages a row must hold " +
                                std::to_string(s.keys) + " keys");
  }
  if (more.query_offsets != 0 || more.dropout != 0) {
    throw std::invalid_argument("page_table: must come without query_offsets and dropout");
  }
  return {reinterpret_cast<const int64_t*>(table), pages, page_size, count};
}

int64_t elements(const AttentionSizes& s, bool packed, int64_t heads, int64_t rows) {
  return (packed && s.batch > 0 ? 1 : s.batch) * heads * rows;
}

}  // namespace wordkiln::bindings
