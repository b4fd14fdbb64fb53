// Weights packed for inference: their layout, and how they come there and back.
//
// Weights lie in panels of kPanelWidth outputs. A panel is [inputs][width] in float32; in bfloat16 a word of 32 bits
// holds two inputs of an output, [inputs / 2][width] filled up to kBfloat16Inputs, so that a shift and a mask widen
// them; in int8 a group of inputs is for each vector of outputs the scales [lanes], then codes [kLinearGroup][lanes]:
// threads that share a panel share no line of it. A weight is its code times its scale, rounded to float32.
#pragma once

#include "cpu/kernels/encoded_rows.h"
#include "cpu/kernels/packed_gemm.h"
#include "cpu/kernels/parallel.h"
#include "wordkiln/linear.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kPanelWidth = kPanel<float>;
constexpr int64_t kBfloat16Inputs = 32;  // what the tile unit takes at a time

typedef int8_t Codes __attribute__((vector_size(kLanes<float>)));

// Bytes of a vector's scales and codes of a group, and of all the panel's.
constexpr int64_t kCodedScales = kLanes<float> * 4;
constexpr int64_t kCodedVector = kCodedScales + kLanes<float> * kLinearGroup;
constexpr int64_t kCodedGroup = kTileVectors * kCodedVector;

inline int64_t groups_of(int64_t inputs) { return (inputs + kLinearGroup - 1) / kLinearGroup; }

// Bytes of a panel's first `inputs` inputs.
inline int64_t panel_bytes(LinearStorage storage, int64_t inputs) {
  switch (storage) {
    case LinearStorage::kFloat32:
      return inputs * kPanelWidth * 4;
    case LinearStorage::kBfloat16:
      return (inputs + kBfloat16Inputs - 1) / kBfloat16Inputs * kBfloat16Inputs * kPanelWidth * 2;
    case LinearStorage::kInt8:
      return groups_of(inputs) * kCodedGroup;
  }
  __builtin_unreachable();
}

// The rows that become a vector of a panel's outputs.
struct PackedRows {
  EncodedMatrix from;  // its first row
  int64_t count;       // at most the lanes; 0: there are none
};

// Those from `row` on, of `rows` rows of `weight`.
inline PackedRows some_rows(const EncodedMatrix& weight, int64_t inputs, int64_t row, int64_t rows) {
  const int64_t left = rows - row;
  if (left <= 0) return {{}, 0};
  const char* first = static_cast<const char*>(weight.data) + row * encoded_bytes(weight.encoding, inputs);
  return {{first, weight.encoding}, left < kLanes<float> ? left : kLanes<float>};
}

// Of a vector of outputs so many inputs, [kLinearGroup][lanes], zeros behind the last.
struct PackedBlock {
  alignas(64) float values[kLinearGroup][kLanes<float>];
  int64_t inputs;

  Vec<float> at(int64_t k) const { return load(values[k]); }
};

// A NaN stays one: rounding could carry it into an infinity.
WORDKILN_INLINE Words round_to_bfloat16(Vec<float> x) {
  const Words bits = (Words)x;
  return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : bits >> 16 | 0x40;
}

// Each returns whether the storage can hold the block's values: int8 has no infinity and no NaN.
inline bool put_float32(const PackedBlock& block, char* to, int64_t vector) {
  to += vector * kLanes<float> * 4;
  for (int64_t k = 0; k < block.inputs; ++k) store(reinterpret_cast<float*>(to) + k * kPanelWidth, block.at(k));
  return true;
}

inline bool put_bfloat16(const PackedBlock& block, char* to, int64_t vector) {
  to += vector * kLanes<float> * 4;
  for (int64_t k = 0; k < block.inputs; k += 2) {
    const Words words = round_to_bfloat16(block.at(k)) | round_to_bfloat16(block.at(k + 1)) << 16;
    __builtin_memcpy(to + k / 2 * kPanelWidth * 4, &words, sizeof words);
  }
  return true;
}

// The largest of a group becomes 127 steps; 0 where all are 0.
inline bool put_int8(const PackedBlock& block, char* to, int64_t vector) {
  Vec<float> most = {}, nothing = {};
  for (int64_t k = 0; k < kLinearGroup; ++k) {
    const Vec<float> x = block.at(k);
    most = max<float>(most, x < 0.0f ? -x : x);
    nothing += x - x;  // 0, unless x is not finite
  }
  const Vec<float> scale = most / 127.0f;
  const Vec<float> inverse = most > 0.0f ? 1.0f / scale : Vec<float>{};
  to += vector * kCodedVector;
  store(reinterpret_cast<float*>(to), scale);
  to += kCodedScales;
  for (int64_t k = 0; k < kLinearGroup; ++k, to += kLanes<float>) {
    // To the nearest: adding this leaves the integer in the low bits.
    const Int steps = (Int)(block.at(k) * inverse + 0x1.8p23f) - (Int)broadcast(0x1.8p23f);
    const Codes codes = __builtin_convertvector(steps, Codes);
    __builtin_memcpy(to, &codes, sizeof codes);
  }
  return sum<float>(nothing) == 0;
}

// Inputs begin..begin + count of some rows, transposed into a block.
inline void fill_block(const PackedRows& rows, int64_t inputs, int64_t begin, int64_t count, PackedBlock& block) {
  const char* row = static_cast<const char*>(rows.from.data);
  if (rows.from.encoding == WeightEncoding::kFloat32) {
    const float* from = reinterpret_cast<const float*>(row) + begin;
    return transpose(from, inputs, rows.count, count, block.values[0], kLanes<float>);
  }
  alignas(64) float widened[kLanes<float>][kLinearGroup];
  for (int64_t i = 0; i < rows.count; ++i) {
    widen_row(rows.from.encoding, row + i * encoded_bytes(rows.from.encoding, inputs), begin, count, widened[i]);
  }
  transpose(widened[0], kLinearGroup, rows.count, count, block.values[0], kLanes<float>);
}

// rows(v): what becomes the panel's vector v. Returns whether the storage can hold all of it.
template <typename Rows>
bool pack_panel(LinearStorage storage, int64_t inputs, Rows rows, char* panel) {
  static constexpr bool (*kPut[])(const PackedBlock&, char*, int64_t) = {put_float32, put_bfloat16, put_int8};
  PackedBlock block;
  bool fits = true;
  for (int64_t v = 0; v < kTileVectors; ++v) {
    const PackedRows from = rows(v);
    for (int64_t k = 0; k < inputs; k += kLinearGroup) {
      block.inputs = inputs - k < kLinearGroup ? inputs - k : kLinearGroup;
      const int64_t filled = from.count > 0 ? block.inputs : 0;
      if (filled > 0) fill_block(from, inputs, k, filled, block);
      for (int64_t i = filled; i < kLinearGroup; ++i) store(block.values[i], Vec<float>{});
      if (storage == LinearStorage::kBfloat16) {
        block.inputs = (block.inputs + kBfloat16Inputs - 1) / kBfloat16Inputs * kBfloat16Inputs;
      }
      fits &= kPut[static_cast<int>(storage)](block, panel + panel_bytes(storage, k), v);
    }
  }
  return fits;
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
      const char* coded =
          panel + panel_bytes(storage, k / kLinearGroup * kLinearGroup) + j / kLanes<float> * kCodedVector;
      const int64_t lane = j % kLanes<float>;
      const int8_t code = static_cast<int8_t>(coded[kCodedScales + k % kLinearGroup * kLanes<float> + lane]);
      to[k] = static_cast<float>(code) * reinterpret_cast<const float*>(coded)[lane];
    }
  }
}

// A packed matrix.
struct PackedWeights {
  LinearStorage storage;
  const char* data;
  int64_t outputs, inputs;
};

inline int64_t vectors_of(int64_t outputs) { return (outputs + kLanes<float> - 1) / kLanes<float>; }

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
