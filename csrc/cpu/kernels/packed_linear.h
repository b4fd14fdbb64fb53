// Products of a few or many rows with packed weights, for inference.
//
// Weights lie in panels of kPanelWidth outputs. A panel is [inputs][width] in float32; in bfloat16 a word of 32 bits
// holds two inputs of an output, [inputs / 2][width] filled up to kBfloat16Inputs, so that a shift and a mask widen them; in int8 a group of inputs is
// the scales [width], then words of four inputs [16][width], each plus 128: what the dot product of bytes takes.
//
// An element of the result is summed over its inputs in their order, whatever the tile: a row's result does not depend on
// how many rows there are, nor on the threads.
#pragma once

#include "cpu/kernels/packed_gemm.h"
#include "cpu/kernels/parallel.h"
#include "wordkiln/linear.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kPanelWidth = kPanel<float>;
constexpr int64_t kCodes = kLinearGroup / 4;  // words of a group
constexpr int64_t kBfloat16Inputs = 32;       // what the tile unit takes at a time

typedef Simd<float>::Int Int;

inline int64_t groups_of(int64_t inputs) { return (inputs + kLinearGroup - 1) / kLinearGroup; }

// Bytes of a panel's first `inputs` inputs.
inline int64_t panel_bytes(LinearStorage storage, int64_t inputs) {
  switch (storage) {
    case LinearStorage::kFloat32:
      return inputs * kPanelWidth * 4;
    case LinearStorage::kBfloat16:
      return (inputs + kBfloat16Inputs - 1) / kBfloat16Inputs * kBfloat16Inputs * kPanelWidth * 2;
    case LinearStorage::kInt8:
      return groups_of(inputs) * kPanelWidth * (4 + kLinearGroup);
  }
  __builtin_unreachable();
}

inline uint32_t to_bfloat16(float x) {
  uint32_t bits = __builtin_bit_cast(uint32_t, x);
  if (x != x) return bits >> 16 | 0x40;  // rounding could carry a NaN into an infinity
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Where `count` values become codes: the largest of them 127 steps, 0 where all are 0.
inline float scale_of(const float* values, int64_t count) {
  float largest = 0;
  for (int64_t k = 0; k < count; ++k) {
    const float size = __builtin_fabsf(values[k]);
    largest = size > largest ? size : largest;
  }
  return largest / 127;
}

// row(j): the weights of output j of the panel, [inputs], or null: zeros.
template <typename Row>
void pack_panel(LinearStorage storage, int64_t inputs, Row row, char* panel) {
  for (int64_t j = 0; j < kPanelWidth; ++j) {
    const float* from = row(j);
    if (storage == LinearStorage::kFloat32) {
      float* to = reinterpret_cast<float*>(panel) + j;
      for (int64_t k = 0; k < inputs; ++k) to[k * kPanelWidth] = from ? from[k] : 0.0f;
    } else if (storage == LinearStorage::kBfloat16) {
      uint32_t* to = reinterpret_cast<uint32_t*>(panel) + j;
      const auto at = [&](int64_t k) { return from && k < inputs ? to_bfloat16(from[k]) : 0; };
      for (int64_t k = 0; k < (inputs + kBfloat16Inputs - 1) / kBfloat16Inputs * kBfloat16Inputs; k += 2) to[k / 2 * kPanelWidth] = at(k) | at(k + 1) << 16;
    } else {
      for (int64_t g = 0; g < groups_of(inputs); ++g) {
        char* group = panel + panel_bytes(storage, g * kLinearGroup);
        const int64_t first = g * kLinearGroup;
        const int64_t size = inputs - first < kLinearGroup ? inputs - first : kLinearGroup;
        const float scale = from ? scale_of(from + first, size) : 0.0f;
        reinterpret_cast<float*>(group)[j] = scale;
        uint32_t* words = reinterpret_cast<uint32_t*>(group) + kPanelWidth + j;
        for (int64_t k = 0; k < kLinearGroup; ++k) {
          const float code = k < size && scale > 0 ? __builtin_rintf(from[first + k] / scale) : 0.0f;
          const uint32_t byte = static_cast<uint32_t>(static_cast<int32_t>(code) + 128);
          uint32_t& word = words[k / 4 * kPanelWidth];
          word = k % 4 == 0 ? byte : word | byte << (k % 4 * 8);
        }
      }
    }
  }
}

// The weights of one output again, [inputs].
inline void unpack_output(LinearStorage storage, const char* packed, int64_t inputs, int64_t output, float* to) {
  const char* panel = packed + output / kPanelWidth * panel_bytes(storage, inputs);
  const int64_t j = output % kPanelWidth;
  for (int64_t k = 0; k < inputs; ++k) {
    if (storage == LinearStorage::kFloat32) {
      to[k] = reinterpret_cast<const float*>(panel)[k * kPanelWidth + j];
    } else if (storage == LinearStorage::kBfloat16) {
      const uint32_t word = reinterpret_cast<const uint32_t*>(panel)[k / 2 * kPanelWidth + j];
      to[k] = __builtin_bit_cast(float, k % 2 ? word & 0xffff0000u : word << 16);
    } else {
      const char* group = panel + panel_bytes(storage, k / kLinearGroup * kLinearGroup);
      const int64_t i = k % kLinearGroup;
      const uint32_t word = reinterpret_cast<const uint32_t*>(group)[kPanelWidth * (1 + i / 4) + j];
      const int32_t code = static_cast<int32_t>(word >> (i % 4 * 8) & 0xff) - 128;
      to[k] = static_cast<float>(code) * reinterpret_cast<const float*>(group)[j];
    }
  }
}

// Rows as a product takes them: as they are, or in codes.
struct LinearRows {
  const float* values;  // [rows, stride]
  int64_t stride;
  const int8_t* codes;  // [rows, groups, kLinearGroup]; int8 only
  const float* scales;  // [rows, groups]
  const int32_t* offsets;
  const uint16_t* halves = nullptr;  // [rows, inputs up to whole tiles], rounded to bfloat16; for the tile unit only
};

struct CodeBuffers {
  int8_t* codes;
  float* scales;
  int32_t* offsets;  // -128 times the sum of a group's codes: what the 128 in the weights' bytes have added
};

// Bytes for the codes of `rows` rows, a multiple of 64.
inline int64_t code_bytes(int64_t rows, int64_t inputs) {
  return (rows * groups_of(inputs) * (kLinearGroup + 8) + 63) / 64 * 64;
}

inline CodeBuffers code_buffers(char* memory, int64_t rows, int64_t inputs) {
  const int64_t groups = rows * groups_of(inputs);
  float* scales = reinterpret_cast<float*>(memory + groups * kLinearGroup);
  return {reinterpret_cast<int8_t*>(memory), scales, reinterpret_cast<int32_t*>(scales + groups)};
}

// The codes of one row.
inline void encode_row(const float* values, int64_t inputs, const CodeBuffers& to, int64_t row) {
  const int64_t groups = groups_of(inputs);
  for (int64_t g = 0; g < groups; ++g) {
    const float* from = values + g * kLinearGroup;
    const int64_t size = inputs - g * kLinearGroup < kLinearGroup ? inputs - g * kLinearGroup : kLinearGroup;
    int8_t* codes = to.codes + (row * groups + g) * kLinearGroup;
    Vec<float> most = {};
    for_vectors<float>(0, size, [&](int64_t k, int lanes) {
      const Vec<float> x = load(from + k, lanes);
      most = max<float>(most, x < 0.0f ? -x : x);
    });
    const float scale = largest<float>(most) / 127, inverse = scale > 0 ? 1 / scale : 0.0f;
    int32_t sum = 0;
    for (int64_t k = 0; k < kLinearGroup; ++k) {
      // A NaN or an infinity becomes some code: its scale carries it into the result.
      const float step = k < size ? from[k] * inverse : 0.0f;
      const float bounded = step > -127.0f ? (step < 127.0f ? step : 127.0f) : -127.0f;
      const int32_t code = static_cast<int32_t>(__builtin_rintf(bounded));
      codes[k] = static_cast<int8_t>(code);
      sum += code;
    }
    to.scales[row * groups + g] = scale;
    to.offsets[row * groups + g] = -128 * sum;
  }
}

// A part of a panel's inputs, for a tile of rows and some vectors of the panel's outputs.
struct PanelTile {
  LinearRows rows;    // of the first row
  int64_t inputs;     // of a whole row
  int64_t begin, end;  // the inputs to sum
  const char* panel;  // from its first vector and input `begin`
  float* out;
  int64_t out_row, columns;
  bool accumulate;
};

template <int kRows, int kVectors>
WORDKILN_INLINE void add_float32(const PanelTile& t, Vec<float> (&acc)[kRows][kVectors]) {
  const MatrixA<float> a = {t.rows.values + t.begin, t.rows.stride, 1};
  accumulate_tile<float, kRows, kVectors>(t.end - t.begin, a, reinterpret_cast<const float*>(t.panel), kPanelWidth,
                                          acc);
}

// acc += input k, and input k + 1 with kBoth, times a word of each output.
template <bool kBoth, int kRows, int kVectors>
WORDKILN_INLINE void add_words(const PanelTile& t, int64_t k, const uint32_t* words,
                               Vec<float> (&acc)[kRows][kVectors]) {
  WORDKILN_UNROLL
  for (int j = 0; j < kVectors; ++j) {
    Int word;
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
  const uint32_t* words = reinterpret_cast<const uint32_t*>(t.panel);
  int64_t k = t.begin;
  for (; k + 2 <= t.end; k += 2, words += kPanelWidth) add_words<true>(t, k, words, acc);
  if (k < t.end) add_words<false>(t, k, words, acc);
}

template <int kRows, int kVectors>
WORDKILN_INLINE void add_int8(const PanelTile& t, Vec<float> (&acc)[kRows][kVectors]) {
  const int64_t groups = groups_of(t.inputs);
  const char* group = t.panel;
  for (int64_t g = t.begin / kLinearGroup; g < groups_of(t.end); ++g) {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(group) + kPanelWidth;
    Int sums[kRows][kVectors];
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      WORDKILN_UNROLL
      for (int j = 0; j < kVectors; ++j) sums[i][j] = t.rows.offsets[i * groups + g] - Int{};
    }
    const int8_t* codes = t.rows.codes + g * kLinearGroup;
    for (int64_t k = 0; k < kCodes; ++k, words += kPanelWidth, codes += 4) {
      Int weights[kVectors];
      WORDKILN_UNROLL
      for (int j = 0; j < kVectors; ++j) __builtin_memcpy(&weights[j], words + j * kLanes<float>, sizeof weights[j]);
      WORDKILN_UNROLL
      for (int i = 0; i < kRows; ++i) {
        int32_t word;
        __builtin_memcpy(&word, codes + i * groups * kLinearGroup, sizeof word);
        WORDKILN_UNROLL
        for (int j = 0; j < kVectors; ++j) sums[i][j] = add_byte_products(sums[i][j], weights[j], word - Int{});
      }
    }
    const float* scales = reinterpret_cast<const float*>(group);
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      const Vec<float> scale = load(scales + j * kLanes<float>);
      WORDKILN_UNROLL
      for (int i = 0; i < kRows; ++i) {
        acc[i][j] += __builtin_convertvector(sums[i][j], Vec<float>) * (scale * t.rows.scales[i * groups + g]);
      }
    }
    group += panel_bytes(LinearStorage::kInt8, kLinearGroup);
  }
}

template <LinearStorage kStorage, int kRows, int kVectors>
void linear_tile(const PanelTile& t) {
  Vec<float> acc[kRows][kVectors];
  const auto lanes = [&](int j) {
    const int64_t left = t.columns - j * kLanes<float>;
    return left < 0 ? 0 : left < kLanes<float> ? static_cast<int>(left) : kLanes<float>;
  };
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      acc[i][j] = t.accumulate ? load(t.out + i * t.out_row + j * kLanes<float>, lanes(j)) : Vec<float>{};
    }
  }
  if constexpr (kStorage == LinearStorage::kFloat32) add_float32(t, acc);
  if constexpr (kStorage == LinearStorage::kBfloat16) add_bfloat16(t, acc);
  if constexpr (kStorage == LinearStorage::kInt8) add_int8(t, acc);
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) store(t.out + i * t.out_row + j * kLanes<float>, acc[i][j], lanes(j));
  }
}

// Sums of bytes and of floats share the registers.
template <LinearStorage kStorage>
constexpr int kLinearRows = kStorage == LinearStorage::kInt8 ? kTileRows / 2 : kTileRows;

// Inputs of a panel that stay in the nearest cache while all rows pass.
template <LinearStorage kStorage>
constexpr int64_t kLinearDepth = kStorage == LinearStorage::kFloat32    ? 128
                                 : kStorage == LinearStorage::kBfloat16 ? 256
                                                                        : 6 * kLinearGroup;

typedef void (*LinearTile)(const PanelTile&);

template <LinearStorage kStorage, int kVectors>
LinearTile linear_tile_of(int64_t rows) {
  if constexpr (kStorage == LinearStorage::kInt8) {
    static constexpr LinearTile kTiles[] = {linear_tile<kStorage, 1, kVectors>, linear_tile<kStorage, 2, kVectors>,
                                            linear_tile<kStorage, 3, kVectors>};
    return kTiles[rows - 1];
  } else {
    static constexpr LinearTile kTiles[] = {linear_tile<kStorage, 1, kVectors>, linear_tile<kStorage, 2, kVectors>,
                                            linear_tile<kStorage, 3, kVectors>, linear_tile<kStorage, 4, kVectors>,
                                            linear_tile<kStorage, 5, kVectors>, linear_tile<kStorage, 6, kVectors>};
    return kTiles[rows - 1];
  }
}

// A packed matrix.
struct PackedWeights {
  LinearStorage storage;
  const char* data;
  int64_t outputs, inputs;
};

// out[rows, kVectors vectors] (+)= rows times the panel's vectors from `vector` on; `columns` of them exist.
template <LinearStorage kStorage, int kVectors>
void multiply_vectors(const PackedWeights& w, const LinearRows& rows, int64_t count, int64_t panel, int64_t vector,
                      float* out, int64_t out_row, int64_t columns, bool accumulate) {
  const int64_t tiles = (count + kLinearRows<kStorage> - 1) / kLinearRows<kStorage>;
  const int64_t depth = tiles <= 2 ? w.inputs : kLinearDepth<kStorage>;
  [[maybe_unused]] const int64_t groups = groups_of(w.inputs);
  const char* weights = w.data + panel * panel_bytes(kStorage, w.inputs) + vector * kLanes<float> * 4;
  for (int64_t k = 0; k < w.inputs; k += depth) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const Range part = split(count, tile, tiles);  // nearly equal: no tile of a single row is left over
      LinearRows from = {rows.values, rows.stride, nullptr, nullptr, nullptr};
      if constexpr (kStorage == LinearStorage::kInt8) {
        from.codes = rows.codes + part.begin * groups * kLinearGroup;
        from.scales = rows.scales + part.begin * groups;
        from.offsets = rows.offsets + part.begin * groups;
      } else {
        from.values += part.begin * rows.stride;
      }
      linear_tile_of<kStorage, kVectors>(part.end - part.begin)({
          .rows = from,
          .inputs = w.inputs,
          .begin = k,
          .end = w.inputs - k < depth ? w.inputs : k + depth,
          .panel = weights + panel_bytes(kStorage, k),
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

inline int64_t vectors_of(int64_t outputs) { return (outputs + kLanes<float> - 1) / kLanes<float>; }

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
