// Products of many rows with packed weights on the tile unit (Intel AMX): 16 rows by 16 outputs by 64 bytes of inputs
// an instruction, sixteen times what vectors do in float32. Only compiled where the compiler may use it; the table of
// instruction set "amx" says whether the machine can (dispatch.cpp).
//
// Inputs and weights are rounded to bfloat16, int8 weights too: they are widened once for all rows.
#pragma once

#include "cpu/kernels/packed_linear.h"
#include "cpu/kernels/tiles.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kTileRowsAtOnce = 2 * kTileSide;
// From so many rows on weights are copied together first: in a panel's rows of 256 bytes a pair of vectors uses half
// of the nearest cache's sets, which do not hold them while all rows pass.
constexpr int64_t kRowsThatReturn = 4 * kTileRowsAtOnce;

// Rows in memory, so many that whole pairs of tiles can be read.
inline int64_t tiled_rows(int64_t rows) { return (rows + kTileRowsAtOnce - 1) / kTileRowsAtOnce * kTileRowsAtOnce; }

// Inputs of a row that was rounded to bfloat16: zeros fill it up to whole tiles.
inline int64_t rounded_inputs(int64_t inputs) {
  return (inputs + kBfloat16Inputs - 1) / kBfloat16Inputs * kBfloat16Inputs;
}

// Rounds row `row` into its place: rows lie in tiles, [rows / kTileSide][inputs / kBfloat16Inputs][kTileSide][...], so
// that the unit reads them from end to end.
inline void round_row(const float* values, int64_t inputs, uint16_t* rows, int64_t row) {
  const int64_t wide = rounded_inputs(inputs);
  Bfloat16* to =
      reinterpret_cast<Bfloat16*>(rows) + row / kTileSide * kTileSide * wide + row % kTileSide * kBfloat16Inputs;
  for (int64_t k = 0; k < wide; k += kLanes<float>) {
    const int64_t left = inputs - k;
    const int n = left >= kLanes<float> ? kLanes<float> : left > 0 ? static_cast<int>(left) : 0;
    store(to + k / kBfloat16Inputs * kBfloat16Inputs * kTileSide + k % kBfloat16Inputs, load(values + k, n));
  }
}

inline int64_t tile_words(int64_t inputs) { return groups_of(inputs) * kLinearGroup / 2 * 2 * kTileSide; }

#if defined(__AMX_TILE__)

// Some vectors of a panel as the tile unit reads them: words of two inputs, [inputs / 2][row_bytes].
struct TileWeights {
  const char* words;
  int64_t row_bytes;

  TileOperand operand() const { return {words, row_bytes, kTileSide * row_bytes, 64}; }
};

// Codes as such words: inputs k and k + 1 of each output.
template <int kVectors>
void widen_to_words(const char* panel, int64_t vector, int64_t inputs, uint32_t* words) {
  Vec<float> before[kVectors] = {};
  const auto put = [&](int64_t k, const Vec<float>* second) {
    for (int j = 0; j < kVectors; ++j) {
      const Words word = round_to_bfloat16(before[j]) | round_to_bfloat16(second[j]) << 16;
      __builtin_memcpy(words + (k / 2 * kVectors + j) * kTileSide, &word, sizeof word);
    }
  };
  // Whole groups: codes behind the last input are 0.
  const int64_t end = groups_of(inputs) * kLinearGroup;
  const auto keep = [&](int64_t k, const Vec<float>(&weights)[kVectors]) __attribute__((always_inline)) {
    if (k % 2 == 1) return put(k, weights);
    for (int j = 0; j < kVectors; ++j) before[j] = weights[j];
  };
  for_widened<kVectors, false>(panel, vector, 0, end, keep);
}

template <int kVectors>
void multiply_tiles(const PackedWeights& w, const LinearRows& rows, int64_t count, TileWeights weights, float* out,
                    int64_t out_row, int64_t columns, bool accumulate) {
  alignas(64) float sums[kTileRowsAtOnce][kVectors * kTileSide];
  const int64_t wide = columns < kVectors * kTileSide ? columns : kVectors * kTileSide;
  const int64_t depth = rounded_inputs(w.inputs) / kTileInputs;
  for (int64_t first = 0; first < count; first += kTileRowsAtOnce) {
    const TileOperand left = whole_tiles(rows.halves + first * depth * kTileInputs, 1, depth);
    multiply_few_tiles<2, kVectors>(depth, left, weights.operand(), sums_of_rows(sums[0], kVectors * kTileSide), false);
    const int64_t here = count - first < kTileRowsAtOnce ? count - first : kTileRowsAtOnce;
    for (int64_t i = 0; i < here; ++i) {
      for_vectors<float>(0, wide, [&](int64_t j, int n) {
        float* to = out + (first + i) * out_row + j;
        store(to, accumulate ? load(to, n) + load(sums[i] + j) : load(sums[i] + j), n);
      });
    }
  }
}

template <int kVectors>
void multiply_vectors_amx(const PackedWeights& w, const LinearRows& rows, int64_t count, int64_t panel, int64_t vector,
                          uint32_t* words, float* out, int64_t out_row, int64_t columns, bool accumulate) {
  const char* from = w.data + panel * panel_bytes(w.storage, w.inputs);
  TileWeights weights = {from + vector * kTileSide * 4, kPanelWidth * 4};
  if (w.storage == LinearStorage::kInt8) {
    widen_to_words<kVectors>(from, vector, w.inputs, words);
    weights = {reinterpret_cast<const char*>(words), kVectors * 64};
  } else if (count >= kRowsThatReturn) {
    for (int64_t k = 0; k < rounded_inputs(w.inputs) / 2; ++k) {
      __builtin_memcpy(words + k * kVectors * kTileSide, weights.words + k * weights.row_bytes, kVectors * 64);
    }
    weights = {reinterpret_cast<const char*>(words), kVectors * 64};
  }
  multiply_tiles<kVectors>(w, rows, count, weights, out, out_row, columns, accumulate);
}

// As multiply_panel_part, with rounded inputs of tiled_rows(count) rows in memory. words: room for widened codes
// or copied weights, tile_words(inputs).
inline void multiply_panel_part_amx(const PackedWeights& w, const LinearRows& rows, int64_t count, int64_t panel,
                                    Range vectors, uint32_t* words, float* out, int64_t out_row, int64_t columns,
                                    bool accumulate) {
  const TileShape shape;
  for (int64_t v = vectors.begin; v < vectors.end; v += 2) {
    const auto run = v + 2 <= vectors.end ? multiply_vectors_amx<2> : multiply_vectors_amx<1>;
    const int64_t offset = (v - vectors.begin) * kTileSide;
    run(w, rows, count, panel, v, words, out + offset, out_row, columns - offset, accumulate);
  }
}

#else

// Never called: without the tile unit there is no table that would.
inline void multiply_panel_part_amx(const PackedWeights& w, const LinearRows& rows, int64_t count, int64_t panel,
                                    Range vectors, uint32_t*, float* out, int64_t out_row, int64_t columns,
                                    bool accumulate) {
  multiply_panel_part(w, rows, count, panel, vectors, out, out_row, columns, accumulate);
}

#endif

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
