// The pages of a decoder's cache (docs/runtime.md): where a row's keys and values lie. Keys of a page lie transposed,
// [D][kDecoderPageKeys], its values [kDecoderPageKeys][D up to whole vectors].
#pragma once

#include "cpu/decoder_view.h"
#include "cpu/kernels/math.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kPageKeys = kDecoderPageKeys;

// Where things lie in a page: for each layer and key head the keys, then the values.
struct PageLayout {
  int64_t head_size, value_width, head_elements, layer_elements;

  explicit PageLayout(const DecoderShape& shape)
      : head_size(shape.head_size),
        value_width((shape.head_size + kLanes<float> - 1) / kLanes<float> * kLanes<float>),
        head_elements(kPageKeys * (head_size + value_width)),
        layer_elements(shape.kv_heads * head_elements) {}
};

// The pages of a run's rows. E: what the cache stores.
template <typename E>
class DecoderPages {
 public:
  DecoderPages(const PageLayout& layout, const DecoderRun& run) : layout_(layout), run_(run) {}

  // A key head's part of a row's page, the keys first.
  E* head(int64_t layer, int64_t row, int64_t number, int64_t kv_head) const {
    E* data = static_cast<E*>(run_.pages[row * run_.pages_per_row + number]);
    return data + layer * layout_.layer_elements + kv_head * layout_.head_elements;
  }

  // Bytes of a key head's part.
  int64_t head_bytes() const { return layout_.head_elements * static_cast<int64_t>(sizeof(E)); }

  // Puts a new key and value [D] in their places.
  void write(int64_t layer, int64_t row, int64_t position, int64_t kv_head, const float* key,
             const float* value) const {
    E* keys = head(layer, row, position / kPageKeys, kv_head);
    const int64_t slot = position % kPageKeys, size = layout_.head_size, width = layout_.value_width;
    for_vectors<float>(0, size, [&](int64_t d, int lanes) {
      E part[kLanes<float>];
      store(part, load(key + d, lanes));
      for (int i = 0; i < lanes; ++i) keys[(d + i) * kPageKeys + slot] = part[i];
    });
    E* values = keys + size * kPageKeys + slot * width;
    for_vectors<float>(0, size, [&](int64_t d, int lanes) { store(values + d, load(value + d, lanes)); });
  }

  // Asks for a key head's place of a new key, and for its part of another page.
  void ask_ahead(int64_t layer, int64_t row, int64_t position, int64_t kv_head, int64_t other) const {
    const int64_t last = position / kPageKeys;
    const E* keys = head(layer, row, last, kv_head) + position % kPageKeys;
    for (int64_t d = 0; d < layout_.head_size; ++d) __builtin_prefetch(keys + d * kPageKeys, 1, 2);
    if (other == last) return;
    const char* begin = reinterpret_cast<const char*>(head(layer, row, other, kv_head));
    for (int64_t i = 0; i < head_bytes(); i += 64) __builtin_prefetch(begin + i, 0, 2);
  }

 private:
  PageLayout layout_;
  const DecoderRun& run_;
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
