// Attention's backward pass in bfloat16 on the tile unit. Weights and score gradients are rounded to bfloat16 for the
// products; gradients of keys and values are summed as their transposes, so that nothing but inputs is transposed.
#include "cpu/kernels/attention_backward.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/tiles.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

class TileProducts {
 public:
  static constexpr int64_t kRows = kTileInputs, kBlock = 128;
  static constexpr int kTogether = 8;

  static int64_t bytes(const AttentionSizes& s) {
    const int64_t keys = round_up(s.keys, kPanel), queries = round_up(s.queries, kPanel);
    const int64_t width = round_up(s.head_size, kTileInputs);
    return (keys * (3 * 2 + 2 * 4) + queries * (4 * 2 + 4)) * width + kPanel * (kRows * (4 + 4 + 2) + kBlock * 4);
  }

  TileProducts(char* memory, const AttentionSizes& s)
      : head_size_(s.head_size), width_(round_up(s.head_size, kTileInputs)) {
    const int64_t keys = round_up(s.keys, kPanel) * width_, queries = round_up(s.queries, kPanel) * width_;
    keys_packed_ = take<Bfloat16>(memory, keys);
    values_packed_ = take<Bfloat16>(memory, keys);
    keys_ = take<Bfloat16>(memory, keys);
    grad_k_ = take<float>(memory, keys);
    grad_v_ = take<float>(memory, keys);
    q_ = take<Bfloat16>(memory, queries);
    grad_out_ = take<Bfloat16>(memory, queries);
    q_transposed_ = take<Bfloat16>(memory, queries);
    grad_out_transposed_ = take<Bfloat16>(memory, queries);
    grad_q_ = take<float>(memory, queries);
    weights_ = take<float>(memory, kRows * kPanel);
    grads_ = take<float>(memory, kRows * kPanel);
    grad_rows_ = take<Bfloat16>(memory, kRows * kPanel);
    weight_pairs_ = take<Bfloat16>(memory, kBlock * kPanel);
    grad_pairs_ = take<Bfloat16>(memory, kBlock * kPanel);
  }

  static WORDKILN_INLINE Vec<float> exp2(Vec<float> x) { return quick_exp2(x); }

  void pack(Matrix<const Bfloat16> k, Matrix<const Bfloat16> v, int64_t count, int64_t owned) {
    pack_columns({k.data, k.row, count, head_size_}, width_, keys_packed_);
    pack_columns({v.data, v.row, count, head_size_}, width_, values_packed_);
    pack_inputs({k.data, k.row, count, head_size_}, width_, keys_);
    const int64_t rows = round_up(owned, kTileSide);
    fill(grad_k_, rows * width_, 0.0f);
    fill(grad_v_, rows * width_, 0.0f);
  }

  void take_queries(Matrix<const Bfloat16> q, Matrix<const Bfloat16> grad_out, int64_t count, float scale) {
    factor_ = scale;
    copy_halves({q.data, q.row, count, head_size_}, width_, q_);
    copy_halves({grad_out.data, grad_out.row, count, head_size_}, width_, grad_out_);
    pack_transposed({q.data, q.row, count, head_size_}, width_, q_transposed_);
    pack_transposed({grad_out.data, grad_out.row, count, head_size_}, width_, grad_out_transposed_);
    fill(grad_q_, round_up(count, kTileSide) * width_, 0.0f);
  }

  float* weights_of(int64_t query) const { return weights_ + query % kRows * kPanel; }

  float* grads_of(int64_t query) const { return grads_ + query % kRows * kPanel; }

  float score(Range queries, int64_t key, int64_t columns) {
    const int64_t depth = width_ / kTileInputs, rows = tiles(queries.end - queries.begin);
    const int64_t first = queries.begin * width_;
    multiply_tiles(rows, tiles(columns), depth, left_rows(q_ + first, width_ * 2),
                   whole_tiles(keys_packed_ + key * width_, 1, depth), sums_of_rows(weights_, kPanel), false);
    multiply_tiles(rows, tiles(columns), depth, left_rows(grad_out_ + first, width_ * 2),
                   whole_tiles(values_packed_ + key * width_, 1, depth), sums_of_rows(grads_, kPanel), false);
    return factor_;
  }

  void add_query_gradients(Range queries, int64_t key, int64_t seen) {
    const int64_t count = queries.end - queries.begin, columns = width_ / kTileSide;
    fill(weights_ + count * kPanel, (kRows - count) * kPanel, 0.0f);
    fill(grads_ + count * kPanel, (kRows - count) * kPanel, 0.0f);
    round_tile(queries.begin % kBlock * kPanel);
    multiply_tiles(tiles(count), columns, (seen + kTileInputs - 1) / kTileInputs, left_rows(grad_rows_, kPanel * 2),
                   whole_tiles(keys_ + key * width_, columns, 1),
                   sums_of_rows(grad_q_ + queries.begin * width_, width_), true);
  }

  void add_key_gradients(const Row& row, Range queries, Range keys) {
    // The tiles that see some of these keys: the same that were weighed.
    const auto sees = [&](int64_t query) {
      const Range all = row.visible({query, smaller(query + kRows, queries.end)});
      return all.end > keys.begin && all.begin < keys.end;
    };
    int64_t first = queries.begin;
    while (first < queries.end && !sees(first)) first += kRows;
    int64_t end = first;
    while (end < queries.end && sees(end)) end += kRows;
    const int64_t offset = first % kBlock * kPanel, rows = width_ / kTileSide;
    const int64_t depth = (end - first) / kRows, columns = tiles(keys.end - keys.begin);
    if (depth == 0) return;
    const auto add = [&](const Bfloat16* left, const Bfloat16* right, float* to) {
      multiply_tiles(rows, columns, depth, whole_tiles(left + first * width_, rows, 1),
                     whole_tiles(right + offset, kPanel / kTileSide, 1),
                     {to + keys.begin * width_, 64, kSquareBytes, rows * kSquareBytes}, true);
    };
    add(grad_out_transposed_, weight_pairs_, grad_v_);
    add(q_transposed_, grad_pairs_, grad_k_);
  }

  void write_query_gradients(float scale, Matrix<Bfloat16> to, int64_t count) {
    write_rows<Bfloat16>(grad_q_, width_, count, head_size_, scale, to);
  }

  void write_key_gradients(const AttentionScores& scores, Matrix<Bfloat16> to_k, Matrix<Bfloat16> to_v, int64_t owned) {
    write_transposed(grad_k_, static_cast<float>(scores.scale), to_k, owned);
    write_transposed(grad_v_, 1, to_v, owned);
  }

 private:
  static constexpr int64_t kSquareBytes = kTileSide * kTileSide * 4;

  static int64_t tiles(int64_t count) { return (count + kTileSide - 1) / kTileSide; }

  // A tile's weights and gradients as operands: of the products over queries at `offset`, of that over keys.
  void round_tile(int64_t offset) {
    for (int64_t i = 0; i < kRows; i += 2) {
      for (int64_t j = 0; j < kPanel; j += kTileSide) {
        const int64_t to = offset + j * kRows + i * kTileSide, at = i * kPanel + j;
        const Halves weights = narrow_both(load(weights_ + at), load(weights_ + at + kPanel));
        const Halves grads = narrow_both(load(grads_ + at), load(grads_ + at + kPanel));
        store_halves(weight_pairs_ + to, interleave_halves(weights));
        store_halves(grad_pairs_ + to, interleave_halves(grads));
        const HalfWords first = half(grads, 0), second = half(grads, 1);
        __builtin_memcpy(grad_rows_ + at, &first, sizeof first);
        __builtin_memcpy(grad_rows_ + at + kPanel, &second, sizeof second);
      }
    }
  }

  void write_transposed(const float* from, float scale, Matrix<Bfloat16> to, int64_t rows) const {
    for (int64_t i = 0; i < rows; i += kTileSide) {
      for (int64_t d = 0; d < width_; d += kTileSide, from += kTileSide * kTileSide) {
        if (d >= head_size_) continue;
        const int lanes = static_cast<int>(smaller(head_size_ - d, kTileSide));
        Vec<float> square[kTileSide];
        WORDKILN_UNROLL
        for (int r = 0; r < kTileSide; ++r) square[r] = load(from + r * kTileSide);
        transpose_registers<float>(square);
        for (int64_t r = 0; r < smaller(rows - i, kTileSide); ++r) store(to[i + r] + d, scale * square[r], lanes);
      }
    }
  }

  TileShape shape_;
  int64_t head_size_, width_;
  float factor_ = 1;
  Bfloat16 *keys_packed_, *values_packed_;         // right tiles [K / 16][width_ / 32]
  Bfloat16* keys_;                                 // right tiles [K / 32][width_ / 16]
  float *grad_k_, *grad_v_;                        // [K / 16][width_ / 16] squares of elements by keys
  Bfloat16 *q_, *grad_out_;                        // [S][width_]
  Bfloat16 *q_transposed_, *grad_out_transposed_;  // left tiles [S / 32][width_ / 16]
  float* grad_q_;                                  // [S][width_]
  float *weights_, *grads_;                        // [kRows][kPanel]
  Bfloat16* grad_rows_;                            // [kRows][kPanel]
  Bfloat16 *weight_pairs_, *grad_pairs_;           // right tiles [kBlock / 32][kPanel / 16]
};

}  // namespace

void attention_backward_tiles(const AttentionBackward& arguments) {
  AttentionBackwardPass<Bfloat16, TileProducts>(arguments).run();
}

}  // namespace wordkiln::cpu::WORDKILN_ISA
