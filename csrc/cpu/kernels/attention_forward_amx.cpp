// Attention's forward pass in bfloat16 on the tile unit: weights are rounded to bfloat16 for the second product.
#include "cpu/kernels/attention_decode.h"
#include "cpu/kernels/attention_forward.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/tiles.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

class TileProducts {
 public:
  static constexpr int64_t kRows = 2 * kTileSide, kKeys = 256, kColumns = kTileInputs;
  static constexpr int64_t kScoreRow = kKeys + kTileSide;  // no power of two: rows would share a few sets of the cache
  static constexpr int kTogether = 8;
  float* scores;  // [kRows][kScoreRow]
  float* out;     // [kRows][out_row]
  int64_t out_row;

  static int64_t bytes(const AttentionSizes& s) {
    const int64_t keys = round_up(s.keys, kPanel), width = round_up(s.head_size, kTileInputs);
    return (2 * keys + kRows) * width * 2 + kRows * (width + kScoreRow) * 4;
  }

  TileProducts(char* memory, const AttentionSizes& s)
      : out_row(round_up(s.head_size, kTileInputs)), head_size_(s.head_size) {
    const int64_t keys = round_up(s.keys, kPanel);
    keys_ = take<Bfloat16>(memory, keys * out_row);
    values_ = take<Bfloat16>(memory, keys * out_row);
    q_ = take<Bfloat16>(memory, kRows * out_row);
    out = take<float>(memory, kRows * out_row);
    scores = take<float>(memory, kRows * kScoreRow);
  }

  void pack(Matrix<const Bfloat16> keys, Matrix<const Bfloat16> values, int64_t count) {
    pack_columns({keys.data, keys.row, count, head_size_}, out_row, keys_);
    pack_inputs({values.data, values.row, count, head_size_}, out_row, values_);
  }

  void take_queries(Matrix<const Bfloat16> q, int64_t count, float scale) {
    copy_halves({q.data, q.row, count, head_size_}, out_row, q_);
    // The next tile's: prefetchers lose the thread between two tiles.
    for (int64_t i = kRows; i < 2 * kRows; ++i) {
      for (int64_t j = 0; j < head_size_; j += kTileInputs) __builtin_prefetch(q[i] + j);
    }
    factor_ = scale;
  }

  float score(int64_t count, int64_t key, int64_t seen) {
    const int64_t depth = out_row / kTileInputs;
    multiply_tiles(tiles(count), tiles(seen), depth, left_rows(q_, out_row * 2),
                   whole_tiles(keys_ + key * out_row, 1, depth), sums_of_rows(scores, kScoreRow), false);
    return factor_;
  }

  // Weights take the place of the scores, in half the room.
  void weigh(int64_t row, int64_t columns, int64_t seen, float factor, SoftmaxSums<float>* sums) {
    add_rounded_weights<kTogether>(scores + row * kScoreRow, columns, factor, sums);
    for (int64_t j = columns; j < seen; j += kTileInputs) {
      for (int64_t i = row; i < row + kTogether; ++i) store_halves(weights(i) + j, Halves{});
    }
  }

  Bfloat16* weights(int64_t row) const { return reinterpret_cast<Bfloat16*>(scores + row * kScoreRow); }

  void add_values(int64_t count, int64_t key, int64_t seen, bool first) {
    const int64_t columns = out_row / kTileSide;
    multiply_tiles(tiles(count), columns, (seen + kTileInputs - 1) / kTileInputs, left_rows(scores, kScoreRow * 4),
                   whole_tiles(values_ + key * out_row, columns, 1), sums_of_rows(out, out_row), !first);
  }

 private:
  static int64_t tiles(int64_t count) { return (count + kTileSide - 1) / kTileSide; }

  template <int kRows>
  static void add_rounded_weights(float* scores, int64_t columns, float factor, SoftmaxSums<float>* sums) {
    Vec<float> totals[kRows];
    float base[kRows];
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      totals[i] = Vec<float>{};
      base[i] = sums[i].largest == -kInfinity<float> ? 0.0f : sums[i].largest;
    }
    for (int64_t j = 0; j < columns; j += kTileInputs) {
      WORDKILN_UNROLL
      for (int i = 0; i < kRows; ++i) {
        float* row = scores + i * kScoreRow;
        const Vec<float> low = quick_exp2(load(row + j) * factor - base[i]);
        const Vec<float> high = quick_exp2(load(row + j + kTileSide) * factor - base[i]);
        totals[i] += low + high;
        store_halves(reinterpret_cast<Bfloat16*>(row) + j, narrow_both(low, high));
      }
    }
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) sums[i].total += sum<float>(totals[i]);
  }

  TileShape shape_;
  int64_t head_size_;
  float factor_ = 1;
  Bfloat16* keys_;    // right tiles [K / 16][out_row / 32]
  Bfloat16* values_;  // right tiles [K / 32][out_row / 16]
  Bfloat16* q_;       // [kRows][out_row]
};

}  // namespace

void attention_forward_tiles(const AttentionForward& arguments) {
  if (AttentionDecodePass<Bfloat16>::takes(arguments)) return AttentionDecodePass<Bfloat16>(arguments).run();
  AttentionForwardPass<Bfloat16, TileProducts>(arguments).run();
}

}  // namespace wordkiln::cpu::WORDKILN_ISA
