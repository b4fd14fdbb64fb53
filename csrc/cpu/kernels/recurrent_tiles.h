// What the passes on the tile unit share: the operand that one step hands to the next, and how the work is cut.
#pragma once

#include "cpu/kernels/recurrent.h"
#include "cpu/kernels/tiles.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// Units that a thread takes at a time: those of a left tile, a line of the cache in bfloat16.
constexpr int64_t kTileUnits = kTileInputs;

inline int64_t tile_depth(int64_t units) { return (units + kTileInputs - 1) / kTileInputs; }

inline int64_t tile_rows(int64_t rows) { return (rows + kTileSide - 1) / kTileSide; }

// The next array in the scratch; their sizes keep it aligned to a line.
template <typename T>
T* take_array(char*& memory, int64_t count) {
  T* part = reinterpret_cast<T*>(memory);
  memory += count * static_cast<int64_t>(sizeof(T));
  return part;
}

// [rows, inputs] of two steps, as left tiles [row tiles][depth tiles]: a thread may write those of a step while others
// still read those of the last one.
struct StepTiles {
  Bfloat16* data;
  int64_t rows, depth;  // in tiles

  int64_t elements() const { return 2 * rows * depth * kTileElements; }

  // Inputs that no unit has are never written: they must not be NaN.
  void clear() const { __builtin_memset(data, 0, static_cast<size_t>(elements()) * sizeof(Bfloat16)); }

  Bfloat16* row(int64_t step, int64_t row) const {
    const int64_t tile = ((step & 1) * rows + row / kTileSide) * depth;
    return data + tile * kTileElements + row % kTileSide * kTileInputs;
  }

  TileOperand from_row(int64_t step, int64_t first) const { return whole_tiles(row(step, first), 1, depth); }
};

// Where an input of a row lies behind its first one.
WORDKILN_INLINE uint64_t offset_in_tiles(uint64_t input) {
  return input / kTileInputs * kTileElements + input % kTileInputs;
}

// With a tile of rows for each thread and weights that stay in its second cache the batch is cut, which needs no
// barrier; else the hidden units are: each thread reads only its own part of the weights.
inline RecurrentPart tile_part(int64_t batch, int64_t blocks, int64_t weight_bytes, int thread, int threads) {
  if (threads > 1 && (batch < kTileSide * threads || weight_bytes > kSecondCache)) {
    return {{0, batch}, split(blocks, thread, threads), true, false};
  }
  const Range tiles = split(tile_rows(batch), thread, threads);
  const int64_t end = tiles.end * kTileSide;
  return {{tiles.begin * kTileSide, end < batch ? end : batch}, {0, blocks}, false, false};
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
