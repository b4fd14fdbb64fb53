// Products of many rows with packed weights on the tile unit (Intel AMX): 16 rows by 16 outputs by 64 bytes of inputs an
// instruction, sixteen times what vectors do in float32. Only compiled where the compiler may use it; the table of
// instruction set "amx" says whether the machine can (dispatch.cpp).
//
// With int8 weights the results are those of packed_linear.h bit for bit: the sums of a group are exact, and groups are
// added in the same order. With bfloat16 weights the inputs are rounded to bfloat16 as well.
#pragma once

#include "cpu/kernels/packed_linear.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kTileSide = 16;  // rows of a tile, and outputs
constexpr int64_t kTileRowsAtOnce = 2 * kTileSide;

// Rows in memory, so many that whole pairs of tiles can be read.
inline int64_t tiled_rows(int64_t rows) { return (rows + kTileRowsAtOnce - 1) / kTileRowsAtOnce * kTileRowsAtOnce; }

// Inputs of a row that was rounded to bfloat16: zeros fill it up to whole tiles.
inline int64_t rounded_inputs(int64_t inputs) {
  return (inputs + kBfloat16Inputs - 1) / kBfloat16Inputs * kBfloat16Inputs;
}

inline void round_row(const float* values, int64_t inputs, uint16_t* to) {
  Bfloat16* rounded = reinterpret_cast<Bfloat16*>(to);
  for_vectors<float>(0, inputs, [&](int64_t k, int n) { store(rounded + k, load(values + k, n), n); });
  for (int64_t k = inputs; k < rounded_inputs(inputs); ++k) to[k] = 0;
}

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

template <int kVectors>
WORDKILN_INLINE void store_sums(void* to) {
  char* bytes = static_cast<char*>(to);
  constexpr int64_t kRow = kVectors * 64;
  _tile_stored(0, bytes, kRow);
  _tile_stored(2, bytes + kTileSide * kRow, kRow);
  if constexpr (kVectors == 2) {
    _tile_stored(1, bytes + 64, kRow);
    _tile_stored(3, bytes + kTileSide * kRow + 64, kRow);
  }
}

WORDKILN_INLINE void load_rows(const void* from, int64_t row_bytes) {
  _tile_loadd(4, from, row_bytes);
  _tile_loadd(5, static_cast<const char*>(from) + kTileSide * row_bytes, row_bytes);
}

template <int kVectors>
WORDKILN_INLINE void load_weights(const void* words) {
  _tile_loadd(6, words, kPanelWidth * 4);
  if constexpr (kVectors == 2) _tile_loadd(7, static_cast<const char*>(words) + 64, kPanelWidth * 4);
}

// The part of a result that is being summed: [kTileRowsAtOnce][kVectors vectors].
template <int kVectors>
struct TileSums {
  alignas(64) float values[kTileRowsAtOnce][kVectors * kTileSide];

  void load_from(const float* out, int64_t out_row, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i) {
      for_parts(columns, [&](int64_t j, int n) { store(values[i] + j, load(out + i * out_row + j, n)); });
    }
  }
  void clear(int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int j = 0; j < kVectors; ++j) store(values[i] + j * kTileSide, Vec<float>{});
    }
  }
  void store_to(float* out, int64_t out_row, int64_t rows, int64_t columns) const {
    for (int64_t i = 0; i < rows; ++i) {
      for_parts(columns, [&](int64_t j, int n) { store(out + i * out_row + j, load(values[i] + j), n); });
    }
  }

 private:
  template <typename Body>
  static void for_parts(int64_t columns, Body body) {
    for_vectors<float>(0, columns < kVectors * kTileSide ? columns : kVectors * kTileSide, body);
  }
};

template <int kVectors>
void tile_int8(const PackedWeights& w, const LinearRows& rows, int64_t first, int64_t count, const char* panel,
               TileSums<kVectors>& sums) {
  const int64_t groups = groups_of(w.inputs), row_bytes = groups * kLinearGroup;
  alignas(64) int32_t products[kTileRowsAtOnce][kVectors * kTileSide];
  for (int64_t g = 0; g < groups; ++g, panel += panel_bytes(LinearStorage::kInt8, kLinearGroup)) {
    clear_sums<kVectors>();
    load_rows(rows.codes + first * row_bytes + g * kLinearGroup, row_bytes);
    load_weights<kVectors>(panel + kPanelWidth * 4);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(2, 5, 6);
    if constexpr (kVectors == 2) {
      _tile_dpbsud(1, 4, 7);
      _tile_dpbsud(3, 5, 7);
    }
    store_sums<kVectors>(products);
    Vec<float> scales[kVectors];
    for (int j = 0; j < kVectors; ++j) scales[j] = load(reinterpret_cast<const float*>(panel) + j * kTileSide);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = (first + i) * groups + g;
      for (int j = 0; j < kVectors; ++j) {
        Int product;
        __builtin_memcpy(&product, products[i] + j * kTileSide, sizeof product);
        float* sum = sums.values[i] + j * kTileSide;
        store(sum, load(sum) + __builtin_convertvector(product + rows.offsets[at], Vec<float>) *
                                   (scales[j] * rows.scales[at]));
      }
    }
  }
}

template <int kVectors>
void tile_bfloat16(const PackedWeights& w, const LinearRows& rows, int64_t first, const char* panel,
                   TileSums<kVectors>& sums) {
  const int64_t row_bytes = rounded_inputs(w.inputs) * 2;
  const char* from = reinterpret_cast<const char*>(rows.halves) + first * row_bytes;
  clear_sums<kVectors>();
  for (int64_t k = 0; k < w.inputs; k += kBfloat16Inputs, from += 64, panel += kTileSide * kPanelWidth * 4) {
    load_rows(from, row_bytes);
    load_weights<kVectors>(panel);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kVectors == 2) {
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  alignas(64) float products[kTileRowsAtOnce][kVectors * kTileSide];
  store_sums<kVectors>(products);
  for (int64_t i = 0; i < kTileRowsAtOnce; ++i) {
    for (int j = 0; j < kVectors * kTileSide; j += kTileSide) {
      store(sums.values[i] + j, load(sums.values[i] + j) + load(products[i] + j));
    }
  }
}

template <int kVectors>
void multiply_tiles(const PackedWeights& w, const LinearRows& rows, int64_t count, const char* panel, float* out,
                    int64_t out_row, int64_t columns, bool accumulate) {
  TileSums<kVectors> sums;
  for (int64_t first = 0; first < count; first += kTileRowsAtOnce) {
    const int64_t here = count - first < kTileRowsAtOnce ? count - first : kTileRowsAtOnce;
    float* to = out + first * out_row;
    sums.clear(kTileRowsAtOnce);
    if (accumulate) sums.load_from(to, out_row, here, columns);
    if (w.storage == LinearStorage::kInt8) {
      tile_int8<kVectors>(w, rows, first, here, panel, sums);
    } else {
      tile_bfloat16<kVectors>(w, rows, first, panel, sums);
    }
    sums.store_to(to, out_row, here, columns);
  }
}

// As multiply_panel_part, with codes or rounded inputs of tiled_rows(count) rows in memory.
inline void multiply_panel_part_amx(const PackedWeights& w, const LinearRows& rows, int64_t count, int64_t panel,
                                    Range vectors, float* out, int64_t out_row, int64_t columns, bool accumulate) {
  const TileShape shape;
  for (int64_t v = vectors.begin; v < vectors.end; v += 2) {
    const char* from = w.data + panel * panel_bytes(w.storage, w.inputs) + v * kTileSide * 4;
    const int64_t offset = (v - vectors.begin) * kTileSide;
    if (v + 2 <= vectors.end) {
      multiply_tiles<2>(w, rows, count, from, out + offset, out_row, columns - offset, accumulate);
    } else {
      multiply_tiles<1>(w, rows, count, from, out + offset, out_row, columns - offset, accumulate);
    }
  }
}

#else

// Never called: without the tile unit there is no table that would.
inline void multiply_panel_part_amx(const PackedWeights& w, const LinearRows& rows, int64_t count, int64_t panel,
                                    Range vectors, float* out, int64_t out_row, int64_t columns, bool accumulate) {
  multiply_panel_part(w, rows, count, panel, vectors, out, out_row, columns, accumulate);
}

#endif

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
