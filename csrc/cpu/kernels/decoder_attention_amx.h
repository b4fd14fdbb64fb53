// Attention of prompts over a bfloat16 cache on the tile unit: the two products of a page, as decoder_attention.h has
// them. Queries and weights are rounded to bfloat16; scores, softmax and sums are float32.
#pragma once

#include "cpu/decoder_view.h"
#include "cpu/kernels/packed_linear_amx.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// Memory for an item of two tiles of query rows.
struct AttentionTiles {
  uint16_t *queries, *weights;  // as round_row lays rows
  uint32_t* words;              // a page's keys or values, as the tile unit reads them

  AttentionTiles(float* memory, int64_t size)
      : queries(reinterpret_cast<uint16_t*>(memory)),
        weights(queries + kTileRowsAtOnce * rounded_inputs(size)),
        words(reinterpret_cast<uint32_t*>(weights + kTileRowsAtOnce * kDecoderPageKeys)) {}

  // Of float32, which `memory` must have.
  static int64_t elements(int64_t size) {
    const int64_t wide = rounded_inputs(size);
    return kTileRowsAtOnce / 2 * (wide + kDecoderPageKeys) + wide / 2 * kDecoderPageKeys;
  }
};

#if defined(__AMX_TILE__)

// Rows k and k + 1 of `from` [depth, columns] become words; those from `depth` to `padded` are zeros.
inline void pair_rows(const Bfloat16* from, int64_t depth, int64_t padded, int64_t columns, uint32_t* words) {
  for (int64_t k = 0; k < padded; k += 2, words += columns) {
    for (int64_t j = 0; j < columns; j += kLanes<float>) {
      const Vec<float> low = k < depth ? load(from + k * columns + j) : Vec<float>{};
      const Vec<float> high = k + 1 < depth ? load(from + (k + 1) * columns + j) : Vec<float>{};
      const Words word = (Words)low >> 16 | (Words)high;
      __builtin_memcpy(words + j, &word, sizeof word);
    }
  }
}

// out[2 tiles of rows, columns] (+)= rows times words [depth / 2, columns]; depth: whole tiles.
WORDKILN_INLINE void multiply_attention(const uint16_t* rows, const uint32_t* words, int64_t depth, int64_t columns,
                                        float* out, bool accumulate) {
  const int64_t tiles = depth / kTileInputs;
  multiply_tiles(2, columns / kTileSide, tiles, whole_tiles(rows, 1, tiles),
                 {words, columns * 4, kTileSide * columns * 4, 64}, sums_of_rows(out, columns), accumulate);
}

// scores[2 tiles of rows, kDecoderPageKeys] = queries times keys [size, kDecoderPageKeys].
inline void score_page(const AttentionTiles& t, const Bfloat16* keys, int64_t size, float* scores) {
  const int64_t depth = rounded_inputs(size);
  pair_rows(keys, size, depth, kDecoderPageKeys, t.words);
  multiply_attention(t.queries, t.words, depth, kDecoderPageKeys, scores, false);
}

// out[2 tiles of rows, width] += weights [rows, kDecoderPageKeys] times values [kDecoderPageKeys, width], of which the
// first `seen` are there: behind them may stand anything.
inline void add_page(const AttentionTiles& t, const Bfloat16* values, int64_t seen, int64_t width, const float* weights,
                     int64_t rows, float* out) {
  const int64_t depth = rounded_inputs(seen);
  for (int64_t i = 0; i < rows; ++i) round_row(weights + i * kDecoderPageKeys, seen, t.weights, i);
  pair_rows(values, seen, depth, width, t.words);
  multiply_attention(t.weights, t.words, depth, width, out, true);
}

#endif

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
