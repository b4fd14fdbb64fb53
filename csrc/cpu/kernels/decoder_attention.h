// Attention over the cache of a decoder (docs/runtime.md), whose pages (decoder_pages.h) lie so that scores and results
// are both tiles of a matrix product. Pages are taken in their order with an online softmax (Milakov and Gimelshein
// 2018, algorithm 3), those of a part by themselves, and parts are joined in their order: so the threads share a long
// row's keys, and what a token gets depends neither on the tokens it is computed with nor on the threads.
#pragma once

#include "cpu/kernels/decoder_attention_amx.h"
#include "cpu/kernels/decoder_softmax.h"
#include "cpu/kernels/gemm.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kQueryRows = 24;  // of an item: a page is read once for so many
constexpr int64_t kSlice = 16;      // of a page's product
constexpr int64_t kPartPages = 4;   // of a part: more are read without a word to others
constexpr float kLog2OfE = 1.44269504088896341f;

// E: what the cache stores. kAmx: whether prompts are the tile unit's.
template <typename E, bool kAmx>
class DecoderAttention {
 public:
  DecoderAttention(const DecoderShape& shape, const DecoderRun& run)
      : shape_(shape),
        run_(run),
        layout_(shape),
        pages_(layout_, run),
        group_(shape.heads / shape.kv_heads),
        tiled_(kAmx && run.prompt && group_ <= kTileRowsAtOnce),
        tokens_(group_ >= kQueryRows ? 1 : (tiled_ ? kTileRowsAtOnce : kQueryRows) / group_),
        rows_(tiled_ ? kTileRowsAtOnce : tokens_ * group_),
        parts_(most_parts(run)) {}

  // Parts of the longest row of a step, 1 for prompts. Where there are more the threads share them: instead of `run`
  // they `run_parts`, meet, and `join_heads`.
  int64_t parts() const { return parts_; }

  // Floats that the threads have in common.
  int64_t shared() const {
    return parts_ > 1 ? run_.rows * shape_.kv_heads * parts_ * group_ * (layout_.value_width + 2) : 0;
  }

  // Where a token's attention begins and where its key and value go: what a step finds in no near cache. Asked for
  // while weights are read, it is there in time.
  void ask_ahead(int64_t layer, int64_t window, int64_t row, int64_t position, int64_t kv_head) const {
    pages_.ask_ahead(layer, row, position, kv_head, first_key(window, position) / kPageKeys);
  }

  // Puts a new key and value [D] in their places.
  void write(int64_t layer, int64_t row, int64_t position, int64_t kv_head, const float* key,
             const float* value) const {
    pages_.write(layer, row, position, kv_head, key, value);
  }

  // Floats that an item needs.
  int64_t scratch() const {
    return rows_ * (layout_.head_size + kPageKeys + 2 * (layout_.value_width + 2)) +
           (tiled_ ? AttentionTiles::elements(layout_.head_size) : 0);
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

  // A thread's parts of a step, which follow one another: the page behind a part is asked for by who reads it.
  void run_parts(int64_t layer, int64_t window, const float* q, int64_t q_row, float* scratch, float* shared,
                 int64_t thread, int64_t threads) const {
    const Rows r = rows_in(scratch);
    const AttentionTiles none(scratch, 0);  // steps are not the tile unit's
    int64_t count = 0, item = 0;
    for (int64_t row = 0; row < run_.rows; ++row)
      count += shape_.kv_heads * size_of(parts_of(window, run_.starts[row]));
    const Range mine = split(count, thread, threads);
    for (int64_t row = 0; row < run_.rows; ++row) {
      const Range parts = parts_of(window, run_.starts[row]);
      for (int64_t head = 0; head < shape_.kv_heads; ++head) {
        for (int64_t part = parts.begin; part < parts.end; ++part, ++item) {
          if (item < mine.begin || item >= mine.end) continue;
          load_queries(r, {row, row + 1}, head, q, q_row);
          Rows here = r;
          here.part = left_in(shared, row * shape_.kv_heads + head, part - parts.begin);
          gather<false>(layer, window, {row, head, run_.starts[row], 1}, part, here, none);
        }
      }
    }
  }

  // Puts together what the threads have left in `shared`: heads begin..end of all rows' key heads.
  void join_heads(int64_t window, Range heads, float* shared, float* out, float* scratch) const {
    const Rows r = rows_in(scratch);
    for (int64_t item = heads.begin; item < heads.end; ++item) {
      const int64_t row = item / shape_.kv_heads, position = run_.starts[row];
      const Range parts = parts_of(window, position);
      clear(r.sum, group_, layout_.value_width);
      for (int64_t part = parts.begin; part < parts.end; ++part)
        join(left_in(shared, item, part - parts.begin), r.sum, group_, layout_.value_width);
      finish(r.sum, {row, row + 1}, item % shape_.kv_heads, out);
    }
  }

 private:
  struct Rows {
    float *q, *scores;
    Gathered part, sum;
  };

  Rows rows_in(float* scratch) const {
    float *q = scratch, *scores = q + rows_ * layout_.head_size, *part = scores + rows_ * kPageKeys;
    return {q, scores, gathered_in(part, rows_), gathered_in(part + rows_ * (layout_.value_width + 2), rows_)};
  }

  Gathered gathered_in(float* memory, int64_t rows) const {
    float* highest = memory + rows * layout_.value_width;
    return {memory, highest, highest + rows};
  }

  Gathered left_in(float* shared, int64_t head, int64_t part) const {
    return gathered_in(shared + (head * parts_ + part) * group_ * (layout_.value_width + 2), group_);
  }

  static int64_t most_parts(const DecoderRun& run) {
    int64_t most = 1;
    for (int64_t row = 0; row < run.rows; ++row) {
      // What has several tokens, or belongs to a prompt, has items enough.
      if (run.prompt || run.offsets[row + 1] - run.offsets[row] != 1) return 1;
      const int64_t parts = run.starts[row] / kPageKeys / kPartPages + 1;
      most = parts > most ? parts : most;
    }
    return most;
  }

  static int64_t size_of(Range range) { return range.end - range.begin; }

  // Those that a token sees.
  static Range parts_of(int64_t window, int64_t position) {
    return {first_key(window, position) / kPageKeys / kPartPages, position / kPageKeys / kPartPages + 1};
  }

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

  static int64_t first_key(int64_t window, int64_t position) {
    return window > 0 && position >= window ? position - window + 1 : 0;
  }

  // As `multiply`, and by the way half of the next page is asked for, if there is one: pages lie apart, and the
  // processor does not find the next by itself.
  void multiply_slices(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_row, const E* b,
                       int64_t b_row, float* out, int64_t out_row, bool accumulate, const char* next) const {
    const int64_t share = pages_.head_bytes() / 2 * kSlice / depth;
    for (int64_t k = 0; k < depth; k += kSlice) {
      for (int64_t i = 0; next != nullptr && i < share; i += 64) __builtin_prefetch(next + i);
      if (next != nullptr) next += share;
      multiply<float, E>(rows, columns, depth - k < kSlice ? depth - k : kSlice, {a + k, a_row, 1}, b + k * b_row,
                         b_row, out, out_row, accumulate || k > 0);
    }
  }

  // Tokens of a row from `position` on, and one of its key heads.
  struct Item {
    int64_t row, kv_head, position, tokens;
  };

  // The tokens' query heads of one key head are the rows of two products for each page.
  template <bool kTiled>
  void run_item(int64_t layer, int64_t window, int64_t row, int64_t kv_head, Range tokens, const float* q,
                int64_t q_row, float* out, float* scratch) const {
    const int64_t count = tokens.end - tokens.begin, position = run_.starts[row] + tokens.begin - run_.offsets[row];
    const Rows r = rows_in(scratch);
    const AttentionTiles tiles(r.sum.out + rows_ * (layout_.value_width + 2), layout_.head_size);
    load_queries(r, tokens, kv_head, q, q_row);
    for (int64_t i = 0; kTiled && i < count * group_; ++i) {
      round_row(r.q + i * layout_.head_size, layout_.head_size, tiles.queries, i);
    }
    clear(r.sum, count * group_, layout_.value_width);
    const Range parts = {parts_of(window, position).begin, parts_of(window, position + count - 1).end};
    for (int64_t part = parts.begin; part < parts.end; ++part) {
      gather<kTiled>(layer, window, {row, kv_head, position, count}, part, r, tiles);
      join(r.part, r.sum, count * group_, layout_.value_width);
    }
    finish(r.sum, tokens, kv_head, out);
  }

  void load_queries(const Rows& r, Range tokens, int64_t kv_head, const float* q, int64_t q_row) const {
    const int64_t size = layout_.head_size;
    const float scale = kLog2OfE / static_cast<float>(__builtin_sqrt(static_cast<double>(size)));
    for (int64_t i = 0; i < (tokens.end - tokens.begin) * group_; ++i) {
      const float* from = q + (tokens.begin + i / group_) * q_row + (kv_head * group_ + i % group_) * size;
      for_vectors<float>(0, size, [&](int64_t d, int n) { store(r.q + i * size + d, load(from + d, n) * scale, n); });
    }
  }

  // Fills r.part from the pages of part `part` that the item's tokens see.
  template <bool kTiled>
  void gather(int64_t layer, int64_t window, const Item& item, int64_t part, const Rows& r,
              const AttentionTiles& tiles) const {
    const int64_t size = layout_.head_size, width = layout_.value_width, rows = item.tokens * group_;
    const int64_t end = item.position + item.tokens, first = first_key(window, item.position) / kPageKeys;
    clear(r.part, rows, width);
    for (int64_t p = part * kPartPages < first ? first : part * kPartPages;
         p < (part + 1) * kPartPages && p * kPageKeys < end; ++p) {
      const E* keys = pages_.head(layer, item.row, p, item.kv_head);
      const bool more = (p + 1) * kPageKeys < end;
      const char* next =
          more ? reinterpret_cast<const char*>(pages_.head(layer, item.row, p + 1, item.kv_head)) : nullptr;
      const int64_t before = end - p * kPageKeys, seen = before < kPageKeys ? before : kPageKeys;
      const int64_t wide = (seen + kLanes<float> - 1) / kLanes<float> * kLanes<float>;
      if constexpr (kTiled) {
        score_page(tiles, keys, size, r.scores);
      } else {
        multiply_slices(rows, wide, size, r.q, size, keys, kPageKeys, r.scores, kPageKeys, false, next);
      }
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t at = item.position + i / group_, begin = window > 0 && at >= window ? at - window + 1 : 0;
        soften(r.scores + i * kPageKeys, r.part, i, {begin - p * kPageKeys, at + 1 - p * kPageKeys}, wide, width);
      }
      const E* values = keys + size * kPageKeys;
      if constexpr (kTiled) {
        add_page(tiles, values, seen, width, r.scores, rows, r.part.out);
      } else {
        const char* half = next == nullptr ? nullptr : next + pages_.head_bytes() / 2;
        multiply_slices(rows, width, seen, r.scores, kPageKeys, values, width, r.part.out, width, true, half);
      }
    }
  }

  void finish(const Gathered& sum, Range tokens, int64_t kv_head, float* out) const {
    const int64_t size = layout_.head_size;
    for (int64_t i = 0; i < (tokens.end - tokens.begin) * group_; ++i) {
      float* to = out + (tokens.begin + i / group_) * shape_.heads * size + (kv_head * group_ + i % group_) * size;
      const float *from = sum.out + i * layout_.value_width, inverse = 1 / sum.total[i];
      for_vectors<float>(0, size, [&](int64_t d, int n) { store(to + d, load(from + d) * inverse, n); });
    }
  }

  const DecoderShape& shape_;
  const DecoderRun& run_;
  PageLayout layout_;
  DecoderPages<E> pages_;
  int64_t group_;
  bool tiled_;
  int64_t tokens_, rows_;  // of an item
  int64_t parts_;
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
