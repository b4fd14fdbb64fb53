// Products of many rows with packed weights on the tile unit (Intel AMX): 16 rows by 16 outputs by 64 bytes of inputs
// an instruction, sixteen times what vectors do in float32. Only compiled where the compiler may use it; the table of
// instruction set "amx" says whether the machine can (dispatch.cpp).
//
// Inputs and weights are rounded to bfloat16, int8 weights too: they are widened once for all rows.
#pragma once

#include "cpu/kernels/packed_linear.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kTileSide = 16;  // rows of a tile, and outputs
constexpr int64_t kTileRowsAtOnce = 2 * kTileSide;
constexpr int64_t kTileBytes = kTileSide * 64;
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

// The tile registers: 0 to 3 sums, 4 and 5 rows, 6 and 7 weights. Their shape is the thread's until it lets go of it.
class TileShape {
 public:
  TileShape() {
    alignas(64) struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes_per_row[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int tile = 0; tile < 8; ++tile) {
      config.bytes_per_row[tile] = 64;
      config.rows[tile] = kTileSide;
    }
    _tile_loadconfig(&config);
  }
  ~TileShape() { _tile_release(); }
  TileShape(const TileShape&) = delete;
  TileShape& operator=(const TileShape&) = delete;
};

// Two tiles of rows by one or two of outputs.
template <int kVectors>
WORDKILN_INLINE void clear_sums() {
  _tile_zero(0);
  _tile_zero(2);
  if constexpr (kVectors == 2) {
    _tile_zero(1);
    _tile_zero(3);
  }
}

// Rows of 64 bytes lie `row` floats apart.
template <int kVectors>
WORDKILN_INLINE void load_sums(const float* at, int64_t row) {
  const float* second = at + kTileSide * row;
  _tile_loadd(0, at, row * 4);
  _tile_loadd(2, second, row * 4);
  if constexpr (kVectors == 2) {
    _tile_loadd(1, at + kTileSide, row * 4);
    _tile_loadd(3, second + kTileSide, row * 4);
  }
}

template <int kVectors>
WORDKILN_INLINE void store_sums(float* at, int64_t row) {
  float* second = at + kTileSide * row;
  _tile_stored(0, at, row * 4);
  _tile_stored(2, second, row * 4);
  if constexpr (kVectors == 2) {
    _tile_stored(1, at + kTileSide, row * 4);
    _tile_stored(3, second + kTileSide, row * 4);
  }
}

WORDKILN_INLINE void load_rows(const char* from, int64_t next) {
  _tile_loadd(4, from, 64);
  _tile_loadd(5, from + next, 64);
}

template <int kVectors>
WORDKILN_INLINE void load_weights(const char* words, int64_t row_bytes) {
  _tile_loadd(6, words, row_bytes);
  if constexpr (kVectors == 2) _tile_loadd(7, words + 64, row_bytes);
}

// Some vectors of a panel as the tile unit reads them: words of two inputs, [inputs / 2][row_bytes].
struct TileWeights {
  const char* words;
  int64_t row_bytes;
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
  for_widened<kVectors>(panel, vector, 0, end, [&](int64_t k, const Vec<float>(&weights)[kVectors]) {
    if (k % 2 == 1) return put(k, weights);
    for (int j = 0; j < kVectors; ++j) before[j] = weights[j];
  });
}

// Adds to the sums two tiles of rows, which lie `next` bytes apart, times weights over some steps of inputs.
template <int kVectors>
WORDKILN_INLINE void add_tiles(const char* rows, int64_t next, int64_t steps, TileWeights weights) {
  for (int64_t step = 0; step < steps; ++step, rows += kTileBytes, weights.words += kTileSide * weights.row_bytes) {
    load_rows(rows, next);
    load_weights<kVectors>(weights.words, weights.row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kVectors == 2) {
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
}

template <int kVectors>
void multiply_tiles(const PackedWeights& w, const LinearRows& rows, int64_t count, TileWeights weights, float* out,
                    int64_t out_row, int64_t columns, bool accumulate) {
  alignas(64) float sums[kTileRowsAtOnce][kVectors * kTileSide];
  const int64_t wide = columns < kVectors * kTileSide ? columns : kVectors * kTileSide;
  const int64_t steps = rounded_inputs(w.inputs) / kBfloat16Inputs;
  for (int64_t first = 0; first < count; first += kTileRowsAtOnce) {
    const char* tiles = reinterpret_cast<const char*>(rows.halves) + first / kTileSide * steps * kTileBytes;
    clear_sums<kVectors>();
    add_tiles<kVectors>(tiles, steps * kTileBytes, steps, weights);
    store_sums<kVectors>(sums[0], kVectors * kTileSide);
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

// Never called, nor made: without the tile unit there is no table that would.
class TileShape {};

inline void multiply_panel_part_amx(const PackedWeights& w, const LinearRows& rows, int64_t count, int64_t panel,
                                    Range vectors, uint32_t*, float* out, int64_t out_row, int64_t columns,
                                    bool accumulate) {
  multiply_panel_part(w, rows, count, panel, vectors, out, out_row, columns, accumulate);
}

#endif

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
