// Attention's backward pass on vectors, in the type that elements are computed in.
#include "cpu/kernels/attention_backward.h"

#include "cpu/kernels/kernels.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// Rows are padded to whole vectors.
template <typename T, typename C = Computed<T>>
class VectorProducts {
 public:
  static constexpr int64_t kRows = kTileRows, kBlock = 96;
  static constexpr int kTogether = kTileRows;

  static int64_t bytes(const AttentionSizes& s) {
    const int64_t keys = round_up(s.keys, kPanel), queries = round_up(s.queries, kPanel);
    const int64_t width = padded<C>(s.head_size);
    return (keys * (2 * s.head_size + 3 * width) + queries * 3 * width + 2 * kBlock * kPanel) * sizeof(C);
  }

  VectorProducts(char* memory, const AttentionSizes& s) : head_size_(s.head_size), width_(padded<C>(s.head_size)) {
    const int64_t keys = round_up(s.keys, kPanel), queries = round_up(s.queries, kPanel);
    keys_packed_ = take<C>(memory, keys * head_size_);
    values_packed_ = take<C>(memory, keys * head_size_);
    keys_ = take<C>(memory, keys * width_);
    grad_k_ = take<C>(memory, keys * width_);
    grad_v_ = take<C>(memory, keys * width_);
    q_ = take<C>(memory, queries * width_);
    grad_out_ = take<C>(memory, queries * width_);
    grad_q_ = take<C>(memory, queries * width_);
    weights_ = take<C>(memory, kBlock * kPanel);
    grads_ = take<C>(memory, kBlock * kPanel);
  }

  static WORDKILN_INLINE Vec<C> exp2(Vec<C> x) { return cpu::WORDKILN_ISA::exp2<C>(x); }

  void pack(Matrix<const T> k, Matrix<const T> v, int64_t count, int64_t owned) {
    pack_keys(k, count, head_size_, keys_packed_);
    pack_keys(v, count, head_size_, values_packed_);
    copy_rows(k, count, head_size_, C{1}, keys_, width_);
    fill(grad_k_, owned * width_, C{0});
    fill(grad_v_, owned * width_, C{0});
  }

  void take_queries(Matrix<const T> q, Matrix<const T> grad_out, int64_t count, C scale) {
    copy_rows(q, count, head_size_, scale, q_, width_);
    copy_rows(grad_out, count, head_size_, C{1}, grad_out_, width_);
    fill(grad_q_, count * width_, C{0});
  }

  C* weights_of(int64_t query) const { return weights_ + query % kBlock * kPanel; }

  C* grads_of(int64_t query) const { return grads_ + query % kBlock * kPanel; }

  C score(Range queries, int64_t key, int64_t columns) {
    const int64_t count = queries.end - queries.begin;
    multiply<C>(count, columns, head_size_, {q_ + queries.begin * width_, width_, 1}, keys_packed_ + key * head_size_,
                kPanel, weights_of(queries.begin), kPanel, false);
    multiply<C>(count, columns, head_size_, {grad_out_ + queries.begin * width_, width_, 1},
                values_packed_ + key * head_size_, kPanel, grads_of(queries.begin), kPanel, false);
    return 1;
  }

  void add_query_gradients(Range queries, int64_t key, int64_t seen) {
    multiply<C>(queries.end - queries.begin, width_, seen, {grads_of(queries.begin), kPanel, 1}, keys_ + key * width_,
                width_, grad_q_ + queries.begin * width_, width_, true);
  }

  void add_key_gradients(const Row& row, Range queries, Range keys) {
    Range seeing = {queries.begin, queries.begin};
    for (int64_t key = keys.begin; key < keys.end; key += kTileRows) {
      const int64_t count = smaller(kTileRows, keys.end - key), column = key - keys.begin;
      // Those that see some of these keys: both ends only grow.
      while (seeing.begin < queries.end && row.visible(seeing.begin).end <= key) ++seeing.begin;
      while (seeing.end < queries.end && row.visible(seeing.end).begin < key + count) ++seeing.end;
      const int64_t depth = seeing.end - seeing.begin;
      if (depth <= 0) continue;
      multiply<C>(count, width_, depth, {weights_of(seeing.begin) + column, 1, kPanel},
                  grad_out_ + seeing.begin * width_, width_, grad_v_ + key * width_, width_, true);
      multiply<C>(count, width_, depth, {grads_of(seeing.begin) + column, 1, kPanel}, q_ + seeing.begin * width_,
                  width_, grad_k_ + key * width_, width_, true);
    }
  }

  void write_query_gradients(C scale, Matrix<T> to, int64_t count) {
    write_rows<T>(grad_q_, width_, count, head_size_, scale, to);
  }

  void write_key_gradients(const AttentionScores& scores, Matrix<T> to_k, Matrix<T> to_v, int64_t owned) {
    // The products with q are in base 2 and through the cap: its factors come off here.
    const C scale = static_cast<C>(scores.soft_cap > 0 ? scores.soft_cap : kLn2);
    write_rows<T>(grad_k_, width_, owned, head_size_, scale, to_k);
    write_rows<T>(grad_v_, width_, owned, head_size_, C{1}, to_v);
  }

 private:
  int64_t head_size_, width_;
  C *keys_packed_, *values_packed_;
  C *keys_, *grad_k_, *grad_v_;  // [K][width_]
  C *q_, *grad_out_, *grad_q_;   // [S][width_]; q scaled
  C *weights_, *grads_;          // [kBlock][kPanel]
};

template <typename T>
void backward(const AttentionBackward& arguments) {
  AttentionBackwardPass<T, VectorProducts<T>>(arguments).run();
}

}  // namespace

void attention_backward_float32(const AttentionBackward& arguments) { backward<float>(arguments); }

void attention_backward_float64(const AttentionBackward& arguments) { backward<double>(arguments); }

void attention_backward_bfloat16(const AttentionBackward& arguments) { backward<Bfloat16>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
