// Products of a few or many rows with packed weights, for inference.
//
// An element of the result is summed over its inputs in the same order and parts, whatever the tile: a row's result
// does not depend on how many rows there are, nor on the threads.
#pragma once

#include "cpu/kernels/packed_weights.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// Rows as a product takes them.
struct LinearRows {
  const float* values;  // [rows, stride]
  int64_t stride;
  const uint16_t* halves = nullptr;  // the rows rounded to bfloat16, as round_row lays them; for the tile unit only
};

// A part of a panel's inputs, for a tile of rows and some vectors of the panel's outputs.
struct PanelTile {
  LinearRows rows;     // of the first row
  int64_t begin, end;  // the inputs to sum
  const char* panel;   // from input `begin` on
  int64_t vector;      // the first of the panel's
  float* out;
  int64_t out_row, columns;
  bool accumulate;
};

// Memory takes longer than the prefetcher looks ahead, and a few rows leave little else to wait for: each line is asked
// for so many bytes before its turn. (One row, 28 MB of int8 on one thread: 9 GB/s without it.)
constexpr int64_t kAhead = 4096;
constexpr int kRowsThatWait = 4;

template <int kRows>
WORDKILN_INLINE void ask_ahead(const void* line) {
  if constexpr (kRows <= kRowsThatWait) __builtin_prefetch(static_cast<const char*>(line) + kAhead);
}

template <int kRows, int kVectors>
WORDKILN_INLINE void add_float32(const PanelTile& t, Vec<float> (&acc)[kRows][kVectors]) {
  const float* from = reinterpret_cast<const float*>(t.panel) + t.vector * kLanes<float>;
  for (int64_t k = t.begin; k < t.end; ++k, from += kPanelWidth) {
    Vec<float> weights[kVectors];
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      ask_ahead<kRows>(from + j * kLanes<float>);
      weights[j] = load(from + j * kLanes<float>);
    }
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const Vec<float> x = broadcast(t.rows.values[i * t.rows.stride + k]);
      WORDKILN_UNROLL
      for (int j = 0; j < kVectors; ++j) acc[i][j] += x * weights[j];
    }
  }
}

// acc += input k, and input k + 1 with kBoth, times a word of each output.
template <bool kBoth, int kRows, int kVectors>
WORDKILN_INLINE void add_words(const PanelTile& t, int64_t k, const uint32_t* words,
                               Vec<float> (&acc)[kRows][kVectors]) {
  WORDKILN_UNROLL
  for (int j = 0; j < kVectors; ++j) {
    Int word;
    ask_ahead<kRows>(words + j * kLanes<float>);
    __builtin_memcpy(&word, words + j * kLanes<float>, sizeof word);
    const Vec<float> low = (Vec<float>)(word << 16), high = (Vec<float>)(word & ~0xffff);
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const float* x = t.rows.values + i * t.rows.stride + k;
      acc[i][j] += broadcast(x[0]) * low;
      if constexpr (kBoth) acc[i][j] += broadcast(x[1]) * high;
    }
  }
}

template <int kRows, int kVectors>
WORDKILN_INLINE void add_bfloat16(const PanelTile& t, Vec<float> (&acc)[kRows][kVectors]) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(t.panel) + t.vector * kLanes<float>;
  int64_t k = t.begin;
  for (; k + 2 <= t.end; k += 2, words += kPanelWidth) add_words<true>(t, k, words, acc);
  if (k < t.end) add_words<false>(t, k, words, acc);
}

// The weights of some vectors and inputs begin..end, whose first group is at `group`: body(input, weights). With kAsk
// each line is asked for a group of the panel before its turn.
template <int kVectors, bool kAsk, typename Body>
WORDKILN_INLINE void for_widened(const char* group, int64_t vector, int64_t begin, int64_t end, Body body) {
  constexpr int64_t kLineInputs = 64 / kLanes<float>;
  for (int64_t k = begin; k < end; group += kCodedGroup) {
    const char* from = group + vector * kCodedVector;
    Vec<float> scales[kVectors];
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      if constexpr (kAsk) __builtin_prefetch(from + j * kCodedVector + kCodedGroup);
      scales[j] = load(reinterpret_cast<const float*>(from + j * kCodedVector));
    }
    from += kCodedScales;
    const auto widen = [&](int64_t input) __attribute__((always_inline)) {
      Vec<float> weights[kVectors];
      WORDKILN_UNROLL
      for (int j = 0; j < kVectors; ++j) {
        const int8_t* codes = reinterpret_cast<const int8_t*>(from + j * kCodedVector);
        weights[j] = __builtin_convertvector(load_bytes(codes), Vec<float>) * scales[j];
      }
      body(input, weights);
      from += kLanes<float>;
    };
    const int64_t stop = end - k < kLinearGroup ? end : k + kLinearGroup;
    for (; k + kLineInputs <= stop; k += kLineInputs) {
      WORDKILN_UNROLL
      for (int j = 0; kAsk && j < kVectors; ++j) __builtin_prefetch(from + j * kCodedVector + kCodedGroup);
      WORDKILN_UNROLL
      for (int64_t i = 0; i < kLineInputs; ++i) widen(k + i);
    }
    for (; k < stop; ++k) widen(k);
  }
}

template <int kRows, int kVectors>
WORDKILN_INLINE void add_int8(const PanelTile& t, Vec<float> (&acc)[kRows][kVectors]) {
  const auto add = [&](int64_t k, const Vec<float>(&weights)[kVectors]) __attribute__((always_inline)) {
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const Vec<float> x = broadcast(t.rows.values[i * t.rows.stride + k]);
      WORDKILN_UNROLL
      for (int j = 0; j < kVectors; ++j) acc[i][j] += x * weights[j];
    }
  };
  for_widened<kVectors, kRows <= kRowsThatWait>(t.panel, t.vector, t.begin, t.end, add);
}

template <LinearStorage kStorage, int kRows, int kVectors>
void linear_tile(const PanelTile& t) {
  Vec<float> acc[kRows][kVectors] = {};
  const auto lanes = [&](int j) {
    const int64_t left = t.columns - j * kLanes<float>;
    return left < 0 ? 0 : left < kLanes<float> ? static_cast<int>(left) : kLanes<float>;
  };
  if constexpr (kStorage == LinearStorage::kFloat32) add_float32(t, acc);
  if constexpr (kStorage == LinearStorage::kBfloat16) add_bfloat16(t, acc);
  if constexpr (kStorage == LinearStorage::kInt8) add_int8(t, acc);
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      float* to = t.out + i * t.out_row + j * kLanes<float>;
      store(to, t.accumulate ? load(to, lanes(j)) + acc[i][j] : acc[i][j], lanes(j));
    }
  }
}

// Inputs that are summed by themselves, then added to the others: rounding errors grow with this number and the number
// of parts, not with their product. So many of a panel's also stay in the nearest cache while all rows pass.
constexpr int64_t kLinearDepth = 2 * kLinearGroup;

typedef void (*LinearTile)(const PanelTile&);

template <LinearStorage kStorage, int kVectors>
LinearTile linear_tile_of(int64_t rows) {
  static constexpr LinearTile kTiles[] = {linear_tile<kStorage, 1, kVectors>, linear_tile<kStorage, 2, kVectors>,
                                          linear_tile<kStorage, 3, kVectors>, linear_tile<kStorage, 4, kVectors>,
                                          linear_tile<kStorage, 5, kVectors>, linear_tile<kStorage, 6, kVectors>};
  return kTiles[rows - 1];
}

// From so many tiles of rows on codes are widened once for all of them.
constexpr int64_t kWidenedTiles = 2;

// Codes of a part of a panel as a panel of float32, whose products are the same bit for bit.
struct WidenedPart {
  alignas(64) float values[kLinearDepth][kPanelWidth];

  template <int kVectors>
  void fill(const char* panel, int64_t vector, int64_t begin, int64_t end) {
    const auto keep = [&](int64_t k, const Vec<float>(&weights)[kVectors]) __attribute__((always_inline)) {
      WORDKILN_UNROLL
      for (int j = 0; j < kVectors; ++j) store(values[k - begin] + (vector + j) * kLanes<float>, weights[j]);
    };
    for_widened<kVectors, false>(panel, vector, begin, end, keep);
  }
};

// out[rows, kVectors vectors] (+)= rows times the panel's vectors from `vector` on; `columns` of them exist.
template <LinearStorage kStorage, int kVectors>
void multiply_vectors(const PackedWeights& w, const LinearRows& rows, int64_t count, int64_t panel, int64_t vector,
                      float* out, int64_t out_row, int64_t columns, bool accumulate) {
  const int64_t tiles = (count + kTileRows - 1) / kTileRows;
  const bool widen = kStorage == LinearStorage::kInt8 && tiles >= kWidenedTiles;
  const char* weights = w.data + panel * panel_bytes(kStorage, w.inputs);
  WidenedPart widened;
  for (int64_t k = 0; k < w.inputs; k += kLinearDepth) {
    const int64_t end = w.inputs - k < kLinearDepth ? w.inputs : k + kLinearDepth;
    const char* from = weights + panel_bytes(kStorage, k);
    if (widen) widened.template fill<kVectors>(from, vector, k, end);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const Range part = split(count, tile, tiles);  // nearly equal: no tile of a single row is left over
      const int64_t size = part.end - part.begin;
      const LinearTile run =
          widen ? linear_tile_of<LinearStorage::kFloat32, kVectors>(size) : linear_tile_of<kStorage, kVectors>(size);
      run({
          .rows = {rows.values + part.begin * rows.stride, rows.stride},
          .begin = k,
          .end = end,
          .panel = widen ? reinterpret_cast<const char*>(widened.values) : from,
          .vector = vector,
          .out = out + part.begin * out_row,
          .out_row = out_row,
          .columns = columns,
          .accumulate = accumulate || k > 0,
      });
    }
  }
}

template <LinearStorage kStorage>
void multiply_part(const PackedWeights& w, const LinearRows& rows, int64_t count, int64_t panel, Range vectors,
                   float* out, int64_t out_row, int64_t columns, bool accumulate) {
  for (int64_t v = vectors.begin; v < vectors.end;) {
    const int64_t left = vectors.end - v, offset = (v - vectors.begin) * kLanes<float>;
    const auto run = [&](auto multiply) {
      multiply(w, rows, count, panel, v, out + offset, out_row, columns - offset, accumulate);
    };
    if (left >= kTileVectors) {
      run(multiply_vectors<kStorage, kTileVectors>);
      v += kTileVectors;
    } else if (left >= 2) {
      run(multiply_vectors<kStorage, 2>);
      v += 2;
    } else {
      run(multiply_vectors<kStorage, 1>);
      v += 1;
    }
  }
}

// out[count, columns] (+)= rows times the outputs of one panel from vector vectors.begin to vectors.end.
inline void multiply_panel_part(const PackedWeights& w, const LinearRows& rows, int64_t count, int64_t panel,
                                Range vectors, float* out, int64_t out_row, int64_t columns, bool accumulate) {
  static constexpr void (*kParts[])(const PackedWeights&, const LinearRows&, int64_t, int64_t, Range, float*, int64_t,
                                    int64_t, bool) = {multiply_part<LinearStorage::kFloat32>,
                                                      multiply_part<LinearStorage::kBfloat16>,
                                                      multiply_part<LinearStorage::kInt8>};
  kParts[static_cast<int>(w.storage)](w, rows, count, panel, vectors, out, out_row, columns, accumulate);
}

// body(panel, vectors of it, first output) for the vectors begin..end of a matrix.
template <typename Body>
void for_panels(Range vectors, Body body) {
  for (int64_t v = vectors.begin; v < vectors.end;) {
    const int64_t panel = v / kTileVectors, first = v % kTileVectors;
    const int64_t left = vectors.end - v, room = kTileVectors - first, size = left < room ? left : room;
    body(panel, Range{first, first + size}, v * kLanes<float>);
    v += size;
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
