// Attention's forward pass on vectors, in the type that elements are computed in.
#include "cpu/kernels/attention_forward.h"

#include "cpu/kernels/attention_decode.h"
#include "cpu/kernels/kernels.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename T, typename C = Computed<T>>
class VectorProducts {
 public:
  static constexpr int64_t kRows = kTileRows, kKeys = 256, kColumns = kLanes<C>, kScoreRow = kKeys;
  static constexpr int kTogether = kTileRows;
  C* scores;  // [kRows][kScoreRow]
  C* out;     // [kRows][out_row]
  int64_t out_row;

  static int64_t bytes(const AttentionSizes& s) {
    const int64_t keys = round_up(s.keys, kPanel), width = padded<C>(s.head_size);
    return (keys * (s.head_size + width) + kRows * (2 * width + kScoreRow) + 5 * kPanel) * sizeof(C);
  }

  VectorProducts(char* memory, const AttentionSizes& s) : out_row(padded<C>(s.head_size)), head_size_(s.head_size) {
    const int64_t rows = round_up(s.keys, kPanel);
    keys_ = take<C>(memory, rows * head_size_);
    values_ = take<C>(memory, rows * out_row);
    q_ = take<C>(memory, kRows * out_row);
    out = take<C>(memory, kRows * out_row);
    scores = take<C>(memory, kRows * kScoreRow);
  }

  void pack(Matrix<const T> keys, Matrix<const T> values, int64_t count) {
    pack_keys(keys, count, head_size_, keys_);
    copy_rows(values, count, head_size_, C{1}, values_, out_row);
  }

  void take_queries(Matrix<const T> q, int64_t count, C scale) { copy_rows(q, count, head_size_, scale, q_, out_row); }

  C score(int64_t count, int64_t key, int64_t seen) {
    for (int64_t j = 0, columns = round_up(seen, kLanes<C>); j < columns; j += kPanel) {
      multiply<C>(count, smaller(columns - j, kPanel), head_size_, {q_, out_row, 1}, keys_ + (key + j) * head_size_,
                  kPanel, scores + j, kScoreRow, false);
    }
    return 1;
  }

  void weigh(int64_t row, int64_t columns, int64_t, C, SoftmaxSums<C>* sums) {
    add_weights<kTogether>(weights(row), kScoreRow, columns, sums);
  }

  C* weights(int64_t row) const { return scores + row * kScoreRow; }

  void add_values(int64_t count, int64_t key, int64_t seen, bool first) {
    multiply<C>(count, out_row, seen, {scores, kScoreRow, 1}, values_ + key * out_row, out_row, out, out_row, !first);
  }

 private:
  int64_t head_size_;
  C* keys_;    // packed
  C* values_;  // [K][out_row]
  C* q_;       // [kRows][out_row], scaled
};

template <typename T>
void forward(const AttentionForward& arguments) {
  if (AttentionDecodePass<T>::takes(arguments)) return AttentionDecodePass<T>(arguments).run();
  AttentionForwardPass<T, VectorProducts<T>>(arguments).run();
}

}  // namespace

void attention_forward_float32(const AttentionForward& arguments) { forward<float>(arguments); }

void attention_forward_float64(const AttentionForward& arguments) { forward<double>(arguments); }

void attention_forward_bfloat16(const AttentionForward& arguments) { forward<Bfloat16>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
