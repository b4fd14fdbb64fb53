// Recomputes the weights of each tile from the saved log-sum-exp (docs/attention.md). A work item is one key head with
// all query heads that share it, so every gradient has one writer and no order depends on the threads.
#include "cpu/kernels/attention.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/math.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// One thread's scratch; rows are padded to whole vectors.
template <typename T>
struct BackwardScratch {
  T* keys_packed;
  T* values_packed;
  T* keys;      // [K][padded]
  T* grad_k;    // [K][padded]
  T* grad_v;    // [K][padded]
  T* q;         // [S][padded], scaled
  T* grad_out;  // [S][padded]
  T* grad_q;    // [S][padded]
  T* dots;      // [S] of out and grad_out
  T* weights;   // [kQueryBlock][kKeyBlock]
  T* grads;     // [kQueryBlock][kKeyBlock] of the scores

  static int64_t size(const AttentionSizes& s) {
    const int64_t keys = round_up(s.keys, kKeyBlock), queries = round_up(s.queries, kKeyBlock);
    return keys * (2 * s.head_size + 3 * padded<T>(s.head_size)) + queries * (3 * padded<T>(s.head_size) + 1) +
           2 * kQueryBlock * kKeyBlock;
  }

  BackwardScratch(T* memory, const AttentionSizes& s) {
    const int64_t rows = round_up(s.keys, kKeyBlock), queries = round_up(s.queries, kKeyBlock);
    const int64_t width = padded<T>(s.head_size);
    keys_packed = memory;
    values_packed = keys_packed + rows * s.head_size;
    keys = values_packed + rows * s.head_size;
    grad_k = keys + rows * width;
    grad_v = grad_k + rows * width;
    q = grad_v + rows * width;
    grad_out = q + queries * width;
    grad_q = grad_out + queries * width;
    dots = grad_q + queries * width;
    weights = dots + queries;
    grads = weights + kQueryBlock * kKeyBlock;
  }
};

template <typename T>
void clear(T* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] = 0;
}

template <typename T>
class AttentionBackwardPass {
 public:
  explicit AttentionBackwardPass(const AttentionBackward& arguments)
      : a_(arguments), s_(arguments.sizes), width_(padded<T>(arguments.sizes.head_size)) {}

  void run() {
    const int64_t items = s_.batch * s_.kv_heads;
    if (items == 0) return;
    const double scores =
        static_cast<double>(s_.batch * s_.heads) * static_cast<double>(s_.queries) * static_cast<double>(s_.keys);
    const int threads = static_cast<int>(smaller(threads_for(5.0 * scores * static_cast<double>(s_.head_size)), items));
    const int64_t size = round_up(BackwardScratch<T>::size(s_), kKeyBlock);
    const Workspace workspace(static_cast<size_t>(threads) * size * sizeof(T));
    T* memory = static_cast<T*>(workspace.data());
    parallel_items(items, threads, [=, this](int64_t item, int thread) {
      run_head(item / s_.kv_heads, item % s_.kv_heads, BackwardScratch<T>(memory + thread * size, s_));
    });
  }

 private:
  template <typename Strides>
  static const T* head_of(const void* x, const Strides& strides, int64_t row, int64_t head) {
    return static_cast<const T*>(x) + row * strides.batch + head * strides.head;
  }

  void run_head(int64_t row, int64_t kv_head, const BackwardScratch<T>& scratch) const {
    const Visibility visible(s_, a_.key_lengths, a_.causal, row);
    const int64_t keys = s_.queries == 0 ? 0 : visible.keys(s_.queries - 1), group = s_.heads / s_.kv_heads;
    const T* k = head_of(a_.k, a_.k_strides, row, kv_head);
    const T* v = head_of(a_.v, a_.v_strides, row, kv_head);
    pack_keys(k, a_.k_strides.row, keys, s_.head_size, scratch.keys_packed);
    pack_keys(v, a_.v_strides.row, keys, s_.head_size, scratch.values_packed);
    copy_rows(k, a_.k_strides.row, keys, s_.head_size, T{1}, scratch.keys, width_);
    clear(scratch.grad_k, s_.keys * width_);
    clear(scratch.grad_v, s_.keys * width_);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      run_query_head(row, head, visible, scratch);
    }
    const int64_t at = (row * s_.kv_heads + kv_head) * s_.keys * s_.head_size;
    write(scratch.grad_k, s_.keys, T{1}, static_cast<T*>(a_.grad_k) + at);
    write(scratch.grad_v, s_.keys, T{1}, static_cast<T*>(a_.grad_v) + at);
  }

  void run_query_head(int64_t row, int64_t head, const Visibility& visible, const BackwardScratch<T>& scratch) const {
    const T* out = head_of(a_.out, a_.out_strides, row, head);
    const T* grad_out = head_of(a_.grad_out, a_.grad_out_strides, row, head);
    copy_rows(head_of(a_.q, a_.q_strides, row, head), a_.q_strides.row, s_.queries, s_.head_size,
              static_cast<T>(a_.scale), scratch.q, width_);
    copy_rows(grad_out, a_.grad_out_strides.row, s_.queries, s_.head_size, T{1}, scratch.grad_out, width_);
    clear(scratch.grad_q, s_.queries * width_);
    for (int64_t i = 0; i < s_.queries; ++i) {
      T dot = 0;
      for (int64_t d = 0; d < s_.head_size; ++d) {
        dot += out[i * a_.out_strides.row + d] * scratch.grad_out[i * width_ + d];
      }
      scratch.dots[i] = dot;
    }
    const T* lse = static_cast<const T*>(a_.lse) + (row * s_.heads + head) * s_.queries;
    for (int64_t first = 0; first < s_.queries; first += kQueryBlock) {
      const Range queries = {first, smaller(first + kQueryBlock, s_.queries)};
      const int64_t keys = visible.keys(queries.end - 1);
      for (int64_t key = 0; key < keys; key += kKeyBlock) {
        const int64_t count = smaller(keys - key, kKeyBlock);
        for (int64_t i = first; i < queries.end; i += kTileRows) {
          run_tile({i, smaller(i + kTileRows, queries.end)}, first, {key, key + count}, visible, lse, scratch);
        }
        add_key_gradients(queries, {key, key + count}, visible, scratch);
      }
    }
    write(scratch.grad_q, s_.queries, static_cast<T>(a_.scale),
          static_cast<T*>(a_.grad_q) + (row * s_.heads + head) * s_.queries * s_.head_size);
  }

  // Weights and score gradients of a few queries against a block of keys, and what they add to grad_q.
  void run_tile(Range queries, int64_t first, Range keys, const Visibility& visible, const T* lse,
                const BackwardScratch<T>& scratch) const {
    const int64_t count = queries.end - queries.begin, begin = queries.begin - first;
    const int64_t seen = smaller(visible.keys(queries.end - 1), keys.end) - keys.begin;
    if (seen <= 0) return;
    const int64_t columns = round_up(seen, kLanes<T>);
    T* weights = scratch.weights + begin * kKeyBlock;
    T* grads = scratch.grads + begin * kKeyBlock;
    multiply<T>(count, columns, s_.head_size, {scratch.q + queries.begin * width_, width_, 1},
                scratch.keys_packed + keys.begin * s_.head_size, kKeyBlock, weights, kKeyBlock, false);
    multiply<T>(count, columns, s_.head_size, {scratch.grad_out + queries.begin * width_, width_, 1},
                scratch.values_packed + keys.begin * s_.head_size, kKeyBlock, grads, kKeyBlock, false);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t query = queries.begin + i;
      const int64_t mine = clamp(visible.keys(query) - keys.begin, 0, seen);
      row_gradients(weights + i * kKeyBlock, grads + i * kKeyBlock, mine, lse[query], scratch.dots[query]);
    }
    multiply<T>(count, width_, seen, {grads, kKeyBlock, 1}, scratch.keys + keys.begin * width_, width_,
                scratch.grad_q + queries.begin * width_, width_, true);
  }

  // In: scores, and the gradient of the weights. Out: weights, and the gradient of the scores; 0 beyond `seen`.
  static void row_gradients(T* weights, T* grads, int64_t seen, T lse, T dot) {
    for (int64_t j = 0; j < seen; j += kLanes<T>) {
      const Vec<T> weight = exp<T>(load(weights + j) - lse);
      store(weights + j, weight);
      store(grads + j, weight * (load(grads + j) - dot));
    }
    clear(weights + seen, kKeyBlock - seen);
    clear(grads + seen, kKeyBlock - seen);
  }

  void add_key_gradients(Range queries, Range keys, const Visibility& visible,
                         const BackwardScratch<T>& scratch) const {
    int64_t first = queries.begin;
    for (int64_t key = keys.begin; key < keys.end; key += kTileRows) {
      const int64_t count = smaller(kTileRows, keys.end - key), column = key - keys.begin;
      while (first < queries.end && visible.keys(first) <= key) ++first;  // they see none of these keys
      const int64_t depth = queries.end - first, from = (first - queries.begin) * kKeyBlock + column;
      multiply<T>(count, width_, depth, {scratch.weights + from, 1, kKeyBlock}, scratch.grad_out + first * width_,
                  width_, scratch.grad_v + key * width_, width_, true);
      multiply<T>(count, width_, depth, {scratch.grads + from, 1, kKeyBlock}, scratch.q + first * width_, width_,
                  scratch.grad_k + key * width_, width_, true);
    }
  }

  void write(const T* from, int64_t rows, T scale, T* to) const {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t d = 0; d < s_.head_size; ++d) to[i * s_.head_size + d] = scale * from[i * width_ + d];
    }
  }

  const AttentionBackward& a_;
  const AttentionSizes& s_;
  int64_t width_;
};

}  // namespace

void attention_backward_float32(const AttentionBackward& arguments) { AttentionBackwardPass<float>(arguments).run(); }

void attention_backward_float64(const AttentionBackward& arguments) { AttentionBackwardPass<double>(arguments).run(); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
