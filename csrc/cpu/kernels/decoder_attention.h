// Attention over the cache of a decoder (docs/runtime.md): the keys of a page lie transposed, [D][kDecoderPageKeys],
// its values [kDecoderPageKeys][D up to whole vectors], so that scores and results are both tiles of a matrix product.
// Pages are taken in their order with an online softmax (Milakov and Gimelshein 2018, algorithm 3): what a token gets
// depends neither on the tokens it is computed with nor on the threads.
#pragma once

#include "cpu/decoder_view.h"
#include "cpu/kernels/decoder_attention_amx.h"
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/math.h"
#include "cpu/kernels/parallel.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kPageKeys = kDecoderPageKeys;
constexpr int64_t kQueryRows = 24;  // of an item: a page is read once for so many
constexpr int64_t kSlice = 16;      // of a page's product
constexpr float kLog2OfE = 1.44269504088896341f;

// Where things lie in a page: for each layer and key head the keys, then the values.
struct PageLayout {
  int64_t head_size, value_width, head_elements, layer_elements;

  explicit PageLayout(const DecoderShape& shape)
      : head_size(shape.head_size),
        value_width((shape.head_size + kLanes<float> - 1) / kLanes<float> * kLanes<float>),
        head_elements(kPageKeys * (head_size + value_width)),
        layer_elements(shape.kv_heads * head_elements) {}
};

// E: what the cache stores. kAmx: whether prompts are the tile unit's.
template <typename E, bool kAmx>
class DecoderAttention {
 public:
  DecoderAttention(const DecoderShape& shape, const DecoderRun& run)
      : shape_(shape),
        run_(run),
        layout_(shape),
        group_(shape.heads / shape.kv_heads),
        tiled_(kAmx && run.prompt && group_ <= kTileRowsAtOnce),
        tokens_(group_ >= kQueryRows ? 1 : (tiled_ ? kTileRowsAtOnce : kQueryRows) / group_),
        rows_(tiled_ ? kTileRowsAtOnce : tokens_ * group_) {}

  // Where a token's attention begins and where its key and value go: what a step finds in no near cache. Asked for
  // while weights are read, it is there in time.
  void ask_ahead(int64_t layer, int64_t window, int64_t row, int64_t position, int64_t kv_head) const {
    const int64_t first = first_key(window, position) / kPageKeys, last = position / kPageKeys;
    const E* keys = page(layer, row, last, kv_head) + position % kPageKeys;
    for (int64_t d = 0; d < layout_.head_size; ++d) __builtin_prefetch(keys + d * kPageKeys, 1, 2);
    if (first == last) return;
    const char* begin = reinterpret_cast<const char*>(page(layer, row, first, kv_head));
    for (int64_t i = 0; i < page_bytes(); i += 64) __builtin_prefetch(begin + i, 0, 2);
  }

  // Floats that an item needs.
  int64_t scratch() const {
    return rows_ * (layout_.head_size + layout_.value_width + kPageKeys + 2) +
           (tiled_ ? AttentionTiles::elements(layout_.head_size) : 0);
  }

  // Puts a new key and value [D] in their places.
  void write(int64_t layer, int64_t row, int64_t position, int64_t kv_head, const float* key,
             const float* value) const {
    E* keys = page(layer, row, position / kPageKeys, kv_head);
    const int64_t slot = position % kPageKeys, size = layout_.head_size, width = layout_.value_width;
    for_vectors<float>(0, size, [&](int64_t d, int lanes) {
      E part[kLanes<float>];
      store(part, load(key + d, lanes));
      for (int i = 0; i < lanes; ++i) keys[(d + i) * kPageKeys + slot] = part[i];
    });
    E* values = keys + size * kPageKeys + slot * width;
    for_vectors<float>(0, size, [&](int64_t d, int lanes) { store(values + d, load(value + d, lanes)); });
  }

  // The items whose numbers next() gives, rising. q: [N, q_row] from the first query head; out: [N, H * D].
  template <typename Next>
  void run(int64_t layer, int64_t window, const float* q, int64_t q_row, float* out, float* scratch, Next next) const {
    if constexpr (kAmx) {
      if (tiled_) {
        const TileShape shape;
        return run_items<true>(layer, window, q, q_row, out, scratch, next);
      }
    }
    run_items<false>(layer, window, q, q_row, out, scratch, next);
  }

 private:
  template <bool kTiled, typename Next>
  void run_items(int64_t layer, int64_t window, const float* q, int64_t q_row, float* out, float* scratch,
                 Next next) const {
    int64_t item = 0, mine = next();
    for (int64_t row = 0; row < run_.rows; ++row) {
      for (int64_t first = run_.offsets[row]; first < run_.offsets[row + 1]; first += tokens_) {
        const int64_t left = run_.offsets[row + 1] - first, count = left < tokens_ ? left : tokens_;
        for (int64_t head = 0; head < shape_.kv_heads; ++head, ++item) {
          if (item != mine) continue;
          run_item<kTiled>(layer, window, row, head, {first, first + count}, q, q_row, out, scratch);
          mine = next();
        }
      }
    }
  }

  E* page(int64_t layer, int64_t row, int64_t number, int64_t kv_head) const {
    E* data = static_cast<E*>(run_.pages[row * run_.pages_per_row + number]);
    return data + layer * layout_.layer_elements + kv_head * layout_.head_elements;
  }

  int64_t page_bytes() const { return layout_.head_elements * static_cast<int64_t>(sizeof(E)); }

  static int64_t first_key(int64_t window, int64_t position) {
    return window > 0 && position >= window ? position - window + 1 : 0;
  }

  // As `multiply`, and by the way half of the next page is asked for, if there is one: pages lie apart, and the
  // processor does not find the next by itself.
  void multiply_slices(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_row, const E* b,
                       int64_t b_row, float* out, int64_t out_row, bool accumulate, const char* next) const {
    const int64_t share = page_bytes() / 2 * kSlice / depth;
    for (int64_t k = 0; k < depth; k += kSlice) {
      for (int64_t i = 0; next != nullptr && i < share; i += 64) __builtin_prefetch(next + i);
      if (next != nullptr) next += share;
      multiply<float, E>(rows, columns, depth - k < kSlice ? depth - k : kSlice, {a + k, a_row, 1}, b + k * b_row,
                         b_row, out, out_row, accumulate || k > 0);
    }
  }

  // The tokens' query heads of one key head are the rows of two products for each page.
  template <bool kTiled>
  void run_item(int64_t layer, int64_t window, int64_t row, int64_t kv_head, Range tokens, const float* q,
                int64_t q_row, float* out, float* scratch) const {
    const int64_t size = layout_.head_size, width = layout_.value_width, count = tokens.end - tokens.begin;
    const int64_t rows = count * group_, position = run_.starts[row] + tokens.begin - run_.offsets[row];
    const Rows r = {scratch, scratch + rows_ * size, scratch + rows_ * (size + width),
                    scratch + rows_ * (size + width + kPageKeys), scratch + rows_ * (size + width + kPageKeys + 1)};
    const AttentionTiles tiles(scratch + rows_ * (size + width + kPageKeys + 2), size);
    const float scale = kLog2OfE / static_cast<float>(__builtin_sqrt(static_cast<double>(size)));
    for (int64_t i = 0; i < rows; ++i) {
      const float* from = q + (tokens.begin + i / group_) * q_row + (kv_head * group_ + i % group_) * size;
      for_vectors<float>(0, size, [&](int64_t d, int n) { store(r.q + i * size + d, load(from + d, n) * scale, n); });
      if constexpr (kTiled) round_row(r.q + i * size, size, tiles.queries, i);
      for (int64_t d = 0; d < width; ++d) r.out[i * width + d] = 0;
      r.highest[i] = -__builtin_inff();
      r.total[i] = 0;
    }
    for (int64_t p = first_key(window, position) / kPageKeys; p * kPageKeys < position + count; ++p) {
      const E* keys = page(layer, row, p, kv_head);
      const bool more = (p + 1) * kPageKeys < position + count;
      const char* next = more ? reinterpret_cast<const char*>(page(layer, row, p + 1, kv_head)) : nullptr;
      const int64_t before = position + count - p * kPageKeys, seen = before < kPageKeys ? before : kPageKeys;
      const int64_t wide = (seen + kLanes<float> - 1) / kLanes<float> * kLanes<float>;
      if constexpr (kTiled) {
        score_page(tiles, keys, size, r.scores);
      } else {
        multiply_slices(rows, wide, size, r.q, size, keys, kPageKeys, r.scores, kPageKeys, false, next);
      }
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t at = position + i / group_, begin = window > 0 && at >= window ? at - window + 1 : 0;
        soften(r, i, {begin - p * kPageKeys, at + 1 - p * kPageKeys}, wide);
      }
      const E* values = keys + size * kPageKeys;
      if constexpr (kTiled) {
        add_page(tiles, values, seen, width, r.scores, rows, r.out);
      } else {
        const char* half = next == nullptr ? nullptr : next + page_bytes() / 2;
        multiply_slices(rows, width, seen, r.scores, kPageKeys, values, width, r.out, width, true, half);
      }
    }
    for (int64_t i = 0; i < rows; ++i) {
      float* to = out + (tokens.begin + i / group_) * shape_.heads * size + (kv_head * group_ + i % group_) * size;
      const float inverse = 1 / r.total[i];
      for_vectors<float>(0, size, [&](int64_t d, int n) { store(to + d, load(r.out + i * width + d) * inverse, n); });
    }
  }

  struct Rows {
    float *q, *out, *scores, *highest, *total;
  };

  // Scores of a page become weights; keys outside `seen` have none.
  void soften(const Rows& r, int64_t i, Range seen, int64_t wide) const {
    constexpr float kNothing = -__builtin_inff();
    float* scores = r.scores + i * kPageKeys;
    Vec<float> most = broadcast(kNothing);
    for (int64_t j = 0; j < wide; j += kLanes<float>) {
      const Int number = lane_numbers<float>() + static_cast<int32_t>(j);
      const Int hidden = (number < static_cast<int32_t>(seen.begin < 0 ? 0 : seen.begin)) |
                         (number >= static_cast<int32_t>(seen.end < kPageKeys ? seen.end : kPageKeys));
      const Vec<float> x = hidden ? broadcast(kNothing) : load(scores + j);
      most = max<float>(x, most);
      store(scores + j, x);
    }
    const float page_highest = largest<float>(most), before = r.highest[i];
    const float highest = page_highest > before ? page_highest : before;
    // Nothing seen yet: weights of 0, and no difference of infinities.
    const float base = highest == kNothing ? 0.0f : highest;
    Vec<float> sums = {};
    for (int64_t j = 0; j < wide; j += kLanes<float>) {
      const Vec<float> weight = exp2<float>(load(scores + j) - base);
      sums += weight;
      store(scores + j, weight);
    }
    if (highest != before) {
      const float factor = exp2<float>(broadcast(before - base))[0];
      r.total[i] *= factor;
      float* out = r.out + i * layout_.value_width;
      for (int64_t d = 0; d < layout_.value_width; d += kLanes<float>) store(out + d, load(out + d) * factor);
    }
    r.total[i] += sum<float>(sums);
    r.highest[i] = highest;
  }

  typedef Simd<float>::Int Int;

  const DecoderShape& shape_;
  const DecoderRun& run_;
  PageLayout layout_;
  int64_t group_;
  bool tiled_;
  int64_t tokens_, rows_;  // of an item
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
