// Recomputes the weights of each tile from the saved log-sum-exp (docs/attention.md). A work item is one or more key
// heads with all query heads that share them, so every gradient has one writer and no order depends on the threads.
#include "cpu/kernels/attention_scores.h"
#include "cpu/kernels/kernels.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kQueryBlock = 96;  // queries that share a panel of keys; a multiple of kTileRows

// One thread's scratch; rows are padded to whole vectors.
template <typename C>
struct BackwardScratch {
  C* keys_packed;
  C* values_packed;
  C* keys;      // [K][padded]
  C* grad_k;    // [K][padded]
  C* grad_v;    // [K][padded]
  C* q;         // [S][padded], scaled
  C* grad_out;  // [S][padded]
  C* grad_q;    // [S][padded]
  C* dots;      // [S] of out and grad_out, less the gradient of the log-sum-exp
  C* weights;   // [kQueryBlock][kPanel]
  C* grads;     // [kQueryBlock][kPanel] of the scores

  static int64_t size(const AttentionSizes& s) {
    const int64_t keys = round_up(s.keys, kPanel), queries = round_up(s.queries, kPanel);
    return keys * (2 * s.head_size + 3 * padded<C>(s.head_size)) + queries * (3 * padded<C>(s.head_size) + 1) +
           2 * kQueryBlock * kPanel;
  }

  BackwardScratch(C* memory, const AttentionSizes& s) {
    const int64_t rows = round_up(s.keys, kPanel), queries = round_up(s.queries, kPanel);
    const int64_t width = padded<C>(s.head_size);
    keys_packed = take(memory, rows * s.head_size);
    values_packed = take(memory, rows * s.head_size);
    keys = take(memory, rows * width);
    grad_k = take(memory, rows * width);
    grad_v = take(memory, rows * width);
    q = take(memory, queries * width);
    grad_out = take(memory, queries * width);
    grad_q = take(memory, queries * width);
    dots = take(memory, queries);
    weights = take(memory, kQueryBlock * kPanel);
    grads = take(memory, kQueryBlock * kPanel);
  }
};

// One query head of one row, and what its rows of a tile need.
template <typename T, typename C = Computed<T>>
struct QueryHead {
  const Row& row;
  int64_t head;
  const C* lse;
  ScoreChange<T> change;
  Dropout dropout;
  C* grad_bias;  // of query 0 and key 0, or null
  bool changed;  // whether there is more than a plain softmax
};

template <typename T>
class AttentionBackwardPass {
  typedef Computed<T> C;

 public:
  explicit AttentionBackwardPass(const AttentionBackward& arguments)
      : a_(arguments),
        s_(arguments.sizes),
        width_(padded<C>(arguments.sizes.head_size)),
        q_grads_(contiguous(arguments.scores, s_.heads, s_.queries, s_.head_size)),
        k_grads_(contiguous(arguments.scores, s_.kv_heads, s_.keys, s_.head_size)),
        lse_strides_(contiguous(arguments.scores, s_.heads, s_.queries, 1)) {}

  void run() {
    // Rows or heads that add to the same gradient of the bias are one item.
    const int64_t batches = a_.grad_bias != nullptr && a_.grad_bias_strides.batch == 0 ? 1 : s_.batch;
    const int64_t heads = a_.grad_bias != nullptr && a_.grad_bias_strides.head == 0 ? 1 : s_.kv_heads;
    const int64_t items = batches * heads;
    if (s_.batch == 0) return;
    const AttentionSizes row = largest_row(s_, a_.scores);
    const double scores =
        static_cast<double>(s_.batch * s_.heads) * static_cast<double>(row.queries) * static_cast<double>(row.keys);
    const int threads = static_cast<int>(smaller(threads_for(5.0 * scores * static_cast<double>(s_.head_size)), items));
    const int64_t size = round_up(BackwardScratch<C>::size(row), kPanel);
    const Workspace workspace(static_cast<size_t>(threads) * size * sizeof(C));
    C* memory = static_cast<C*>(workspace.data());
    parallel_items(items, threads, [=, this](int64_t item, int thread) {
      const BackwardScratch<C> scratch(memory + thread * size, row);
      const Range rows = split(s_.batch, item / heads, batches), own = split(s_.kv_heads, item % heads, heads);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        for (int64_t head = own.begin; head < own.end; ++head) run_head(Row(s_, a_.scores, row), head, scratch);
      }
    });
  }

 private:
  void run_head(const Row& row, int64_t kv_head, const BackwardScratch<C>& scratch) const {
    const int64_t keys = row.visible({0, row.queries}).end, group = s_.heads / s_.kv_heads;
    const Matrix<const T> k = head_of<T>(a_.k, a_.k_strides, row.index, kv_head, row.first_key);
    const Matrix<const T> v = head_of<T>(a_.v, a_.v_strides, row.index, kv_head, row.first_key);
    pack_keys(k, keys, s_.head_size, scratch.keys_packed);
    pack_keys(v, keys, s_.head_size, scratch.values_packed);
    copy_rows(k, keys, s_.head_size, C{1}, scratch.keys, width_);
    // Rows without key offsets own all of their K keys, also those beyond their length.
    const int64_t owned = a_.scores.key_offsets == nullptr ? s_.keys : row.keys;
    fill(scratch.grad_k, owned * width_, C{0});
    fill(scratch.grad_v, owned * width_, C{0});
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) run_query_head(row, head, scratch);
    // The products with q are in base 2 and through the cap: its factors come off here.
    const C scale = static_cast<C>(a_.scores.soft_cap > 0 ? a_.scores.soft_cap : kLn2);
    write_rows<T>(scratch.grad_k, width_, owned, s_.head_size, scale,
                  head_of<T>(a_.grad_k, k_grads_, row.index, kv_head, row.first_key));
    write_rows<T>(scratch.grad_v, width_, owned, s_.head_size, C{1},
                  head_of<T>(a_.grad_v, k_grads_, row.index, kv_head, row.first_key));
  }

  void run_query_head(const Row& row, int64_t head, const BackwardScratch<C>& scratch) const {
    const Matrix<const T> grad_out = head_of<T>(a_.grad_out, a_.grad_out_strides, row.index, head, row.first_query);
    copy_rows(head_of<T>(a_.q, a_.q_strides, row.index, head, row.first_query), row.queries, s_.head_size,
              static_cast<C>(query_scale(a_.scores)), scratch.q, width_);
    copy_rows(grad_out, row.queries, s_.head_size, C{1}, scratch.grad_out, width_);
    fill(scratch.grad_q, row.queries * width_, C{0});
    sum_dots(row, head, scratch);
    const C* lse = head_of<C>(a_.lse, lse_strides_, row.index, head, row.first_query).data;
    C* grad_bias = static_cast<C*>(a_.grad_bias);
    if (grad_bias != nullptr) grad_bias += row.index * a_.grad_bias_strides.batch + head * a_.grad_bias_strides.head;
    const ScoreChange<T> change(a_.scores, row, head);
    const Dropout dropout(a_.scores, row.index, s_.heads, head);
    const bool changed = change.any() || dropout.any() || grad_bias != nullptr;
    const QueryHead<T> query_head = {row, head, lse, change, dropout, grad_bias, changed};
    for (int64_t first = 0; first < row.queries; first += kQueryBlock) {
      const Range queries = {first, smaller(first + kQueryBlock, row.queries)};
      const Range keys = row.visible(queries);
      for (int64_t key = keys.begin; key < keys.end; key += kPanel) {
        const Range panel = {key, smaller(key + kPanel, keys.end)};
        for (int64_t i = first; i < queries.end; i += kTileRows) {
          run_tile(query_head, {i, smaller(i + kTileRows, queries.end)}, first, panel, scratch);
        }
        add_key_gradients(row, queries, panel, scratch);
      }
    }
    write_rows<T>(scratch.grad_q, width_, row.queries, s_.head_size, static_cast<C>(a_.scores.scale),
                  head_of<T>(a_.grad_q, q_grads_, row.index, head, row.first_query));
  }

  void sum_dots(const Row& row, int64_t head, const BackwardScratch<C>& scratch) const {
    const Matrix<const T> out = head_of<T>(a_.out, a_.out_strides, row.index, head, row.first_query);
    const C* grad_lse =
        a_.grad_lse == nullptr ? nullptr : head_of<C>(a_.grad_lse, lse_strides_, row.index, head, row.first_query).data;
    for (int64_t i = 0; i < row.queries; ++i) {
      Vec<C> dot = {};
      for (int64_t d = 0; d < s_.head_size; d += kLanes<C>) {
        const int lanes = static_cast<int>(smaller(s_.head_size - d, kLanes<C>));
        dot += load(out[i] + d, lanes) * load(scratch.grad_out + i * width_ + d);
      }
      scratch.dots[i] = sum<C>(dot) - (grad_lse == nullptr ? C{0} : grad_lse[i]);
    }
  }

  // Weights and score gradients of a few queries against a panel of keys, and what they add to grad_q.
  void run_tile(const QueryHead<T>& h, Range queries, int64_t first, Range keys,
                const BackwardScratch<C>& scratch) const {
    const int64_t count = queries.end - queries.begin, begin = queries.begin - first;
    const Range all = h.row.visible(queries);
    const int64_t seen = smaller(all.end, keys.end) - keys.begin;
    if (seen <= 0 || all.begin >= keys.end) return;
    const int64_t columns = round_up(seen, kLanes<C>);
    C* weights = scratch.weights + begin * kPanel;
    C* grads = scratch.grads + begin * kPanel;
    multiply<C>(count, columns, s_.head_size, {scratch.q + queries.begin * width_, width_, 1},
                scratch.keys_packed + keys.begin * s_.head_size, kPanel, weights, kPanel, false);
    multiply<C>(count, columns, s_.head_size, {scratch.grad_out + queries.begin * width_, width_, 1},
                scratch.values_packed + keys.begin * s_.head_size, kPanel, grads, kPanel, false);
    // A tile at the end has fewer rows: the others repeat the last one's limits, and nobody reads them.
    Range limits[kTileRows];
    C lse[kTileRows], dots[kTileRows];
    for (int64_t i = 0; i < kTileRows; ++i) {
      const int64_t query = queries.begin + smaller(i, count - 1);
      limits[i] = within(h.row.visible(query), keys.begin, columns);
      lse[i] = static_cast<C>(kLog2E) * h.lse[query];
      dots[i] = scratch.dots[query];
    }
    if (h.changed) {
      for (int64_t i = 0; i < count; ++i) {
        run_changed_row(h, queries.begin + i, keys.begin, limits[i], weights + i * kPanel, grads + i * kPanel, lse[i],
                        dots[i]);
      }
    } else {
      run_rows(weights, grads, columns, lse, dots);
    }
    mask(weights, kPanel, limits, kPanel, C{0});
    mask(grads, kPanel, limits, kPanel, C{0});
    multiply<C>(count, width_, seen, {grads, kPanel, 1}, scratch.keys + keys.begin * width_, width_,
                scratch.grad_q + queries.begin * width_, width_, true);
  }

  // In: products with q, and the gradient of the weights. Out: weights, and the gradient of the products.
  static void run_rows(C* weights, C* grads, int64_t columns, const C* lse, const C* dots) {
    for (int64_t j = 0; j < columns; j += kLanes<C>) {
      WORDKILN_UNROLL
      for (int i = 0; i < kTileRows; ++i) {
        const Vec<C> weight = exp2<C>(load(weights + i * kPanel + j) - lse[i]);
        store(weights + i * kPanel + j, weight);
        store(grads + i * kPanel + j, weight * (load(grads + i * kPanel + j) - dots[i]));
      }
    }
  }

  void run_changed_row(const QueryHead<T>& h, int64_t query, int64_t key, Range seen, C* weights, C* grads, C lse,
                       C dot) const {
    C factors[kPanel], unscaled[kPanel];  // of dropout; gradients of the scores before the cap's derivative
    if (h.dropout.any()) h.dropout.draw(query, key, factors);
    for (int64_t j = seen.begin / kLanes<C> * kLanes<C>; j < seen.end; j += kLanes<C>) {
      Vec<C> x = load(weights + j), slope = broadcast(C{1});
      if (h.change.cap != 0) {
        const Vec<C> ratio = tanh<C>(x);
        x = h.change.cap * ratio;
        slope -= ratio * ratio;
      }
      Vec<C> weight = exp2<C>(h.change.add_bias(x, query, key + j) - lse), grad = load(grads + j);
      const Vec<C> factor = h.dropout.any() ? load(factors + j) : broadcast(C{1});
      grad = weight * (factor * grad - dot);
      store(weights + j, factor * weight);
      store(unscaled + j, grad);
      store(grads + j, slope * grad);
    }
    if (h.grad_bias == nullptr) return;
    C* grad_bias = h.grad_bias + query * a_.grad_bias_strides.row;
    const int64_t step = a_.grad_bias_strides.key;
    for (int64_t j = seen.begin; j < seen.end; ++j) grad_bias[(key + j) * step] += unscaled[j];
  }

  void add_key_gradients(const Row& row, Range queries, Range keys, const BackwardScratch<C>& scratch) const {
    Range seeing = {queries.begin, queries.begin};
    for (int64_t key = keys.begin; key < keys.end; key += kTileRows) {
      const int64_t count = smaller(kTileRows, keys.end - key), column = key - keys.begin;
      // Those that see some of these keys: both ends only grow.
      while (seeing.begin < queries.end && row.visible(seeing.begin).end <= key) ++seeing.begin;
      while (seeing.end < queries.end && row.visible(seeing.end).begin < key + count) ++seeing.end;
      const int64_t depth = seeing.end - seeing.begin, from = (seeing.begin - queries.begin) * kPanel + column;
      if (depth <= 0) continue;
      multiply<C>(count, width_, depth, {scratch.weights + from, 1, kPanel}, scratch.grad_out + seeing.begin * width_,
                  width_, scratch.grad_v + key * width_, width_, true);
      multiply<C>(count, width_, depth, {scratch.grads + from, 1, kPanel}, scratch.q + seeing.begin * width_, width_,
                  scratch.grad_k + key * width_, width_, true);
    }
  }

  const AttentionBackward& a_;
  const AttentionSizes& s_;
  int64_t width_;
  AttentionStrides q_grads_, k_grads_, lse_strides_;
};

}  // namespace

void attention_backward_float32(const AttentionBackward& arguments) { AttentionBackwardPass<float>(arguments).run(); }

void attention_backward_float64(const AttentionBackward& arguments) { AttentionBackwardPass<double>(arguments).run(); }

void attention_backward_bfloat16(const AttentionBackward& arguments) {
  AttentionBackwardPass<Bfloat16>(arguments).run();
}

}  // namespace wordkiln::cpu::WORDKILN_ISA
