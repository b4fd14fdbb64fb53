// Weights lie in panels of kPanel outputs, [K][kPanel]: a panel streams through the cache once for a few rows. In
// bfloat16 a word of 32 bits holds two outputs that are half a register group apart, so that a shift and a mask widen
// them without a shuffle.
#include "wordkiln/linear.h"

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/packed_gemm.h"
#include "cpu/kernels/parallel.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kDepth = 384;  // of a panel that several tiles of rows read: it stays in cache
constexpr int64_t kWidth = kPanel<float>;
constexpr int64_t kWords = kWidth / 2;

inline int64_t panels(const LinearSizes& sizes) { return (sizes.outputs + kWidth - 1) / kWidth; }

inline uint32_t to_bfloat16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  if (x != x) return bits >> 16 | 0x40;  // rounding could carry a NaN into an infinity
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

void pack_panel_bfloat16(const float* from, int64_t columns, int64_t depth, uint32_t* panel) {
  const auto at = [&](int64_t j, int64_t k) { return j < columns ? to_bfloat16(from[j * depth + k]) : 0; };
  for (int64_t k = 0; k < depth; ++k, panel += kWords) {
    for (int64_t j = 0; j < kWords; ++j) {
      const int64_t left = j / kLanes<float> * 2 * kLanes<float> + j % kLanes<float>;
      panel[j] = at(left, k) | at(left + kLanes<float>, k) << 16;
    }
  }
}

// acc += A times a panel of bfloat16, as accumulate_tile.
template <int kRows>
WORDKILN_INLINE void accumulate_words(const float* a, int64_t a_row, int64_t depth, const uint32_t* panel,
                                      Vec<float> (&acc)[kRows][kTileVectors]) {
  typedef Simd<float>::Int Int;
  for (int64_t k = 0; k < depth; ++k, panel += kWords) {
    Vec<float> columns[kTileVectors];
    WORDKILN_UNROLL
    for (int j = 0; j < kTileVectors; j += 2) {
      Int words;
      __builtin_memcpy(&words, panel + j / 2 * kLanes<float>, sizeof words);
      columns[j] = (Vec<float>)(words << 16);
      columns[j + 1] = (Vec<float>)(words & ~0xffff);
    }
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const Vec<float> x = broadcast(a[i * a_row + k]);
      WORDKILN_UNROLL
      for (int j = 0; j < kTileVectors; ++j) acc[i][j] += x * columns[j];
    }
  }
}

// Tiles of one panel and a part of its depth.
struct LinearTile {
  const float* x;     // from the first row and input
  const void* panel;  // from the first input
  float* out;
  int64_t inputs, outputs;  // the rows' strides
  int64_t depth, columns;
  bool accumulate;
};

template <int kRows>
void tile_float32(const LinearTile& t) {
  panel_tile<float, kRows>(t.x, t.inputs, 1, t.depth, static_cast<const float*>(t.panel), t.out, t.outputs, t.columns,
                           t.accumulate);
}

template <int kRows>
void tile_bfloat16(const LinearTile& t) {
  Vec<float> acc[kRows][kTileVectors] = {};
  accumulate_words<kRows>(t.x, t.inputs, t.depth, static_cast<const uint32_t*>(t.panel), acc);
  finish_tile<float, kRows>(acc, t.out, t.outputs, t.columns, t.accumulate);
}

constexpr void (*kTiles[2][kTileRows])(const LinearTile&) = {
    {tile_float32<1>, tile_float32<2>, tile_float32<3>, tile_float32<4>, tile_float32<5>, tile_float32<6>},
    {tile_bfloat16<1>, tile_bfloat16<2>, tile_bfloat16<3>, tile_bfloat16<4>, tile_bfloat16<5>, tile_bfloat16<6>}};

inline int64_t bytes_of_row(LinearStorage storage) {
  return storage == LinearStorage::kFloat32 ? kWidth * 4 : kWidth * 2;
}

void run_panel(const LinearRun& a, int64_t panel) {
  const int64_t inputs = a.sizes.inputs, outputs = a.sizes.outputs, first = panel * kWidth;
  const int64_t columns = outputs - first < kWidth ? outputs - first : kWidth;
  const int64_t groups = (a.rows + kTileRows - 1) / kTileRows, row_bytes = bytes_of_row(a.storage);
  const char* weights = static_cast<const char*>(a.packed) + panel * inputs * row_bytes;
  const int64_t step = groups == 1 ? inputs : kDepth;
  for (int64_t k = 0; k < inputs; k += step) {
    for (int64_t group = 0; group < groups; ++group) {
      const Range rows = split(a.rows, group, groups);  // nearly equal: no tile of a single row is left over
      kTiles[a.storage == LinearStorage::kBfloat16][rows.end - rows.begin - 1]({
          .x = a.x + rows.begin * inputs + k,
          .panel = weights + k * row_bytes,
          .out = a.out + rows.begin * outputs + first,
          .inputs = inputs,
          .outputs = outputs,
          .depth = inputs - k < step ? inputs - k : step,
          .columns = columns,
          .accumulate = k > 0,
      });
    }
  }
  for (int64_t i = 0; i < a.rows; ++i) {
    float* out = a.out + i * outputs + first;
    for (int64_t j = 0; j < columns; ++j) out[j] = (inputs > 0 ? out[j] : 0.0f) + (a.bias ? a.bias[first + j] : 0.0f);
  }
}

}  // namespace

size_t linear_packed_bytes(LinearStorage storage, const LinearSizes& sizes) {
  return static_cast<size_t>(panels(sizes) * sizes.inputs * bytes_of_row(storage));
}

void linear_pack(LinearStorage storage, const LinearSizes& sizes, const float* weight, void* packed) {
  const int64_t inputs = sizes.inputs, count = panels(sizes);
  parallel_threads(threads_for(static_cast<double>(count * kWidth) * static_cast<double>(inputs)),
                   [=](int thread, int threads) {
                     const Range mine = split(count, thread, threads);
                     for (int64_t p = mine.begin; p < mine.end; ++p) {
                       const float* from = weight + p * kWidth * inputs;
                       char* to = static_cast<char*>(packed) + p * inputs * bytes_of_row(storage);
                       const int64_t left = sizes.outputs - p * kWidth, columns = left < kWidth ? left : kWidth;
                       if (storage == LinearStorage::kFloat32) {
                         pack_transposed(from, inputs, columns, inputs, reinterpret_cast<float*>(to));
                       } else {
                         pack_panel_bfloat16(from, columns, inputs, reinterpret_cast<uint32_t*>(to));
                       }
                     }
                   });
}

void linear_run(const LinearRun& a) {
  if (a.rows == 0) return;
  const double work =
      static_cast<double>(a.rows) * static_cast<double>(a.sizes.outputs) * static_cast<double>(a.sizes.inputs);
  const int64_t count = panels(a.sizes);
  parallel_threads(threads_for(work), [&](int thread, int threads) {
    const Range mine = split(count, thread, threads);
    for (int64_t p = mine.begin; p < mine.end; ++p) run_panel(a, p);
  });
}

}  // namespace wordkiln::cpu::WORDKILN_ISA
