// The tile unit (Intel AMX): products of 16 x 32 by 32 x 16 bfloat16 elements, summed in float32, an instruction each.
// Empty where the compiler may not use it; the table of instruction set "amx" says whether the machine can
// (dispatch.cpp).
//
// A left tile is 16 rows of 32 inputs. A right tile is 16 words of two inputs by 16 columns: [input / 2][column][2].
#pragma once

#include "cpu/kernels/simd.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kTileSide = 16;    // rows of a tile, and columns of a right one
constexpr int64_t kTileInputs = 32;  // what a product sums over
constexpr int64_t kTileElements = kTileSide * kTileInputs;

#if defined(__AMX_TILE__)

// GCC 12 does not know that loading a tile, or the tiles' shape, reads memory: what was stored must be there before.
WORDKILN_INLINE void finish_stores() { asm volatile("" ::: "memory"); }

// The tile registers: 0 to 3 sums, 4 and 5 left, 6 and 7 right. Their shape is the thread's until it lets go of it.
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
    finish_stores();
    _tile_loadconfig(&config);
  }
  ~TileShape() { _tile_release(); }
  TileShape(const TileShape&) = delete;
  TileShape& operator=(const TileShape&) = delete;
};

// Where the tiles of an operand lie, in bytes: the rows of one, the next tile in depth, the one beside it.
struct TileOperand {
  const void* data;
  int64_t row, depth, next;
};

// Where the sums lie, in bytes: the rows of a tile, the tile below, the one to the right.
struct TileSums {
  void* data;
  int64_t row, below, right;
};

// Tiles of a row-major matrix whose rows are so many bytes.
inline TileOperand left_rows(const void* data, int64_t row) { return {data, row, 64, kTileSide * row}; }

// Tiles that lie whole, [column tiles][depth tiles] or with `depth` and `next` given.
inline TileOperand whole_tiles(const void* data, int64_t depth_tiles, int64_t next_tiles) {
  constexpr int64_t kBytes = kTileElements * 2;
  return {data, 64, depth_tiles * kBytes, next_tiles * kBytes};
}

inline TileSums sums_of_rows(float* data, int64_t row) { return {data, row * 4, kTileSide * row * 4, 64}; }

inline const char* bytes_at(const void* data, int64_t offset) { return static_cast<const char*>(data) + offset; }

inline char* bytes_at(void* data, int64_t offset) { return static_cast<char*>(data) + offset; }

template <int kRows, int kColumns>
WORDKILN_INLINE void clear_tiles() {
  _tile_zero(0);
  if constexpr (kColumns == 2) _tile_zero(1);
  if constexpr (kRows == 2) _tile_zero(2);
  if constexpr (kRows == 2 && kColumns == 2) _tile_zero(3);
}

template <int kRows, int kColumns>
WORDKILN_INLINE void load_tiles(TileSums c) {
  _tile_loadd(0, c.data, c.row);
  if constexpr (kColumns == 2) _tile_loadd(1, bytes_at(c.data, c.right), c.row);
  if constexpr (kRows == 2) _tile_loadd(2, bytes_at(c.data, c.below), c.row);
  if constexpr (kRows == 2 && kColumns == 2) _tile_loadd(3, bytes_at(c.data, c.below + c.right), c.row);
}

template <int kRows, int kColumns>
WORDKILN_INLINE void store_tiles(TileSums c) {
  _tile_stored(0, c.data, c.row);
  if constexpr (kColumns == 2) _tile_stored(1, bytes_at(c.data, c.right), c.row);
  if constexpr (kRows == 2) _tile_stored(2, bytes_at(c.data, c.below), c.row);
  if constexpr (kRows == 2 && kColumns == 2) _tile_stored(3, bytes_at(c.data, c.below + c.right), c.row);
}

// One or two tiles of rows by one or two of columns. Four sums at once hide a product's latency. Inlined all the way:
// an operand passed on the stack is read back by one wide load, which waits for all earlier stores, those of the last
// tiles included (a tenth of a forward pass).
template <int kRows, int kColumns>
WORDKILN_INLINE void multiply_few_tiles(int64_t depth, TileOperand a, TileOperand b, TileSums c, bool accumulate) {
  finish_stores();
  if (accumulate) {
    load_tiles<kRows, kColumns>(c);
  } else {
    clear_tiles<kRows, kColumns>();
  }
  for (int64_t k = 0; k < depth; ++k) {
    const char* left = bytes_at(a.data, k * a.depth);
    const char* right = bytes_at(b.data, k * b.depth);
    _tile_loadd(4, left, a.row);
    _tile_loadd(6, right, b.row);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kColumns == 2) {
      _tile_loadd(7, right + b.next, b.row);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kRows == 2) {
      _tile_loadd(5, left + a.next, a.row);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (kRows == 2 && kColumns == 2) _tile_dpbf16ps(3, 5, 7);
  }
  store_tiles<kRows, kColumns>(c);
}

// One or two tiles of columns.
template <int kColumns>
WORDKILN_INLINE void multiply_columns(int64_t rows, int64_t depth, TileOperand a, TileOperand b, TileSums c,
                                      bool accumulate) {
  int64_t i = 0;
  const auto left = [&] { return TileOperand{bytes_at(a.data, i * a.next), a.row, a.depth, a.next}; };
  const auto sums = [&] { return TileSums{bytes_at(c.data, i * c.below), c.row, c.below, c.right}; };
  for (; i + 2 <= rows; i += 2) multiply_few_tiles<2, kColumns>(depth, left(), b, sums(), accumulate);
  if (i < rows) multiply_few_tiles<1, kColumns>(depth, left(), b, sums(), accumulate);
}

// C (+)= A B, all sizes in tiles.
WORDKILN_INLINE void multiply_tiles(int64_t rows, int64_t columns, int64_t depth, TileOperand a, TileOperand b,
                                    TileSums c, bool accumulate) {
  int64_t j = 0;
  const auto right = [&] { return TileOperand{bytes_at(b.data, j * b.next), b.row, b.depth, b.next}; };
  const auto sums = [&] { return TileSums{bytes_at(c.data, j * c.right), c.row, c.below, c.right}; };
  for (; j + 2 <= columns; j += 2) multiply_columns<2>(rows, depth, a, right(), sums(), accumulate);
  if (j < columns) multiply_columns<1>(rows, depth, a, right(), sums(), accumulate);
}

typedef uint16_t Halves __attribute__((vector_size(64)));

WORDKILN_INLINE Halves narrow_both(Vec<float> low, Vec<float> high) { return (Halves)_mm512_cvtne2ps_pbh(high, low); }

// Up to 32 elements; zeros fill up.
WORDKILN_INLINE Halves load_halves(const Bfloat16* from, int64_t count) {
  const __mmask32 wanted = count >= 32 ? ~__mmask32{0} : count > 0 ? (__mmask32{1} << count) - 1 : 0;
  return (Halves)_mm512_maskz_loadu_epi16(wanted, from);
}

WORDKILN_INLINE void store_halves(void* to, Halves x) { __builtin_memcpy(to, &x, sizeof x); }

template <int kFirst, int... I>
WORDKILN_INLINE Halves pair(Halves first, Halves second, Indices<I...>) {
  return __builtin_shufflevector(first, second, (kFirst + I / 2 + I % 2 * 32)...);
}

// Words of 16 elements of two rows, from kFirst on: the first row's are the low halves.
template <int kFirst>
WORDKILN_INLINE Halves pair(Halves first, Halves second) {
  return pair<kFirst>(first, second, MakeIndices<32>::Type{});
}

template <int... I>
WORDKILN_INLINE Halves interleave_halves(Halves x, Indices<I...>) {
  return __builtin_shufflevector(x, x, (I % 2 * 16 + I / 2)...);
}

// Two rows of 16 elements, one after the other, as words.
WORDKILN_INLINE Halves interleave_halves(Halves x) { return interleave_halves(x, MakeIndices<32>::Type{}); }

WORDKILN_INLINE HalfWords half(Halves x, int which) {
  HalfWords part;
  __builtin_memcpy(&part, reinterpret_cast<const char*>(&x) + which * sizeof part, sizeof part);
  return part;
}

// Rows of elements in memory, `rows` of `columns`; zeros are read beyond both.
struct HalfRows {
  const Bfloat16* data;
  int64_t row, rows, columns;

  WORDKILN_INLINE Halves at(int64_t i, int64_t j) const {
    return load_halves(data + i * row + j, i < rows ? columns - j : 0);
  }
};

WORDKILN_INLINE void store_words(const Vec<float> (&words)[kTileSide], Bfloat16* to) {
  WORDKILN_UNROLL
  for (int i = 0; i < kTileSide; ++i) store(reinterpret_cast<float*>(to) + i * kTileSide, words[i]);
}

// Row-major, rows of `width`, up to a whole tile.
inline void copy_halves(HalfRows from, int64_t width, Bfloat16* to) {
  for (int64_t i = 0; i < (from.rows + kTileSide - 1) / kTileSide * kTileSide; ++i) {
    for (int64_t j = 0; j < width; j += kTileInputs) store_halves(to + i * width + j, from.at(i, j));
  }
}

// Right tiles whose columns are the rows and whose inputs are the elements: [rows / 16][width / 32].
inline void pack_columns(HalfRows from, int64_t width, Bfloat16* to) {
  for (int64_t i = 0; i < from.rows; i += kTileSide) {
    for (int64_t j = 0; j < width; j += kTileInputs, to += kTileElements) {
      Vec<float> words[kTileSide];
      WORDKILN_UNROLL
      for (int r = 0; r < kTileSide; ++r) words[r] = (Vec<float>)from.at(i + r, j);
      transpose_registers<float>(words);
      store_words(words, to);
    }
  }
}

// Right tiles whose inputs are the rows and whose columns are the elements: [rows / 32][width / 16].
inline void pack_inputs(HalfRows from, int64_t width, Bfloat16* to) {
  for (int64_t i = 0; i < from.rows; i += kTileInputs) {
    for (int64_t j = 0; j < width; j += 2 * kTileSide, to += 2 * kTileElements) {
      for (int64_t r = 0; r < kTileInputs; r += 2) {
        const Halves first = from.at(i + r, j), second = from.at(i + r + 1, j);
        store_halves(to + r * kTileSide, pair<0>(first, second));
        store_halves(to + kTileElements + r * kTileSide, pair<kTileSide>(first, second));
      }
    }
  }
}

// Left tiles of the transpose: [rows / 32][width / 16], each 16 elements by 32 rows.
inline void pack_transposed(HalfRows from, int64_t width, Bfloat16* to) {
  for (int64_t i = 0; i < from.rows; i += kTileInputs) {
    for (int64_t j = 0; j < width; j += 2 * kTileSide, to += 2 * kTileElements) {
      Vec<float> low[kTileSide], high[kTileSide];
      WORDKILN_UNROLL
      for (int r = 0; r < kTileSide; ++r) {
        const Halves first = from.at(i + 2 * r, j), second = from.at(i + 2 * r + 1, j);
        low[r] = (Vec<float>)pair<0>(first, second);
        high[r] = (Vec<float>)pair<kTileSide>(first, second);
      }
      transpose_registers<float>(low);
      store_words(low, to);
      transpose_registers<float>(high);
      store_words(high, to + kTileElements);
    }
  }
}

// 2^x with an error of 8e-8 of it: five multiply-adds beside what the processor has for powers of two; -inf gives 0.
// A coarser fit would do for weights in bfloat16, but the log-sum-exp is a float32.
WORDKILN_INLINE Vec<float> quick_exp2(Vec<float> x) {
  // 2^r for 0 <= r < 1, exact at 0: a minimax fit of the relative error.
  constexpr float kPower[] = {0.0018671300495043397f, 0.009017030708491802f, 0.05579991266131401f,
                              0.24016444385051727f,   0.6931512951850891f,   1.0f};
  const Vec<float> r = _mm512_maskz_reduce_ps(0xffff, x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  Vec<float> p = broadcast(kPower[0]);
  WORDKILN_UNROLL
  for (unsigned i = 1; i < sizeof kPower / sizeof(float); ++i) p = p * r + kPower[i];
  return _mm512_maskz_scalef_ps(0xffff, p, x);
}

#else

// Made by nobody: without the tile unit there is no table that would.
class TileShape {};

#endif

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
