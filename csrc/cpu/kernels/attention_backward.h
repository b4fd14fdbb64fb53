// Recomputes the weights of each tile from the saved log-sum-exp (docs/attention.md). A work item is one or more key
// heads with all query heads that share them, so every gradient has one writer and no order depends on the threads.
//
// Products is one thread's scratch and the five products:
//   kRows queries are a tile, kTogether of them go through the softmax at a time; kBlock of them share a panel of keys
//   Products::bytes(sizes), Products(memory, sizes)
//   pack(keys, values, count, owned)          what the next queries see; of `owned` keys gradients are wanted
//   take_queries(q, grad_out, count, scale)   of the next query head
//   score(queries, key, columns) -> factor    weights_of(query) [kRows][kPanel] times factor are what ScoreChange
//   takes;
//                                             grads_of(query) are the gradients of the weights
//   add_query_gradients(queries, key, seen)   from the gradients of the scores in grads_of(query)
//   add_key_gradients(row, queries, keys)     of a block and a panel
//   write_query_gradients(scale, to, count), write_key_gradients(scores, to_k, to_v, owned)
#pragma once

#include "cpu/kernels/attention_scores.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// One query head of one row, and what its rows of a tile need.
template <typename T, typename C = Computed<T>>
struct QueryHead {
  const Row& row;
  int64_t head;
  const C *lse, *dots;
  ScoreChange<T> change;
  Dropout dropout;
  C* grad_bias;  // of query 0 and key 0, or null
  bool changed;  // whether there is more than a plain softmax
};

template <typename T, typename Products>
class AttentionBackwardPass {
  typedef Computed<T> C;

 public:
  explicit AttentionBackwardPass(const AttentionBackward& arguments)
      : a_(arguments),
        s_(arguments.sizes),
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
    const int64_t dots_bytes = round_up(row.queries * static_cast<int64_t>(sizeof(C)), 64);
    const int64_t bytes = round_up(Products::bytes(row) + dots_bytes, 4096);
    const Workspace workspace(static_cast<size_t>(threads) * bytes);
    char* memory = static_cast<char*>(workspace.data());
    parallel_items(items, threads, [=, this](int64_t item, int thread) {
      char* own_memory = memory + thread * bytes;
      C* dots = take<C>(own_memory, row.queries);
      Products products(own_memory, row);
      const Range rows = split(s_.batch, item / heads, batches), own = split(s_.kv_heads, item % heads, heads);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        for (int64_t head = own.begin; head < own.end; ++head) run_head(Row(s_, a_.scores, row), head, products, dots);
      }
    });
  }

 private:
  // dots: room for one of each query of out and grad_out, less the gradient of the log-sum-exp.
  void run_head(const Row& row, int64_t kv_head, Products& products, C* dots) const {
    const int64_t keys = row.visible({0, row.queries}).end, group = s_.heads / s_.kv_heads;
    // Rows without key offsets own all of their K keys, also those beyond their length.
    const int64_t owned = a_.scores.key_offsets == nullptr ? s_.keys : row.keys;
    products.pack(head_of<T>(a_.k, a_.k_strides, row.index, kv_head, row.first_key),
                  head_of<T>(a_.v, a_.v_strides, row.index, kv_head, row.first_key), keys, owned);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      run_query_head(row, head, products, dots);
    }
    products.write_key_gradients(a_.scores, head_of<T>(a_.grad_k, k_grads_, row.index, kv_head, row.first_key),
                                 head_of<T>(a_.grad_v, k_grads_, row.index, kv_head, row.first_key), owned);
  }

  void run_query_head(const Row& row, int64_t head, Products& products, C* dots) const {
    const Matrix<const T> grad_out = head_of<T>(a_.grad_out, a_.grad_out_strides, row.index, head, row.first_query);
    products.take_queries(head_of<T>(a_.q, a_.q_strides, row.index, head, row.first_query), grad_out, row.queries,
                          static_cast<C>(query_scale(a_.scores)));
    sum_dots(row, head, grad_out, dots);
    const C* lse = head_of<C>(a_.lse, lse_strides_, row.index, head, row.first_query).data;
    C* grad_bias = static_cast<C*>(a_.grad_bias);
    if (grad_bias != nullptr) grad_bias += row.index * a_.grad_bias_strides.batch + head * a_.grad_bias_strides.head;
    const ScoreChange<T> change(a_.scores, row, head);
    const Dropout dropout(a_.scores, row.index, s_.heads, head);
    const bool changed = change.any() || dropout.any() || grad_bias != nullptr;
    const QueryHead<T> query_head = {row, head, lse, dots, change, dropout, grad_bias, changed};
    for (int64_t first = 0; first < row.queries; first += Products::kBlock) {
      const Range queries = {first, smaller(first + Products::kBlock, row.queries)};
      const Range keys = row.visible(queries);
      for (int64_t key = keys.begin; key < keys.end; key += kPanel) {
        const Range panel = {key, smaller(key + kPanel, keys.end)};
        for (int64_t i = first; i < queries.end; i += Products::kRows) {
          run_tile(query_head, {i, smaller(i + Products::kRows, queries.end)}, panel, products);
        }
        products.add_key_gradients(row, queries, panel);
      }
    }
    products.write_query_gradients(static_cast<C>(a_.scores.scale),
                                   head_of<T>(a_.grad_q, q_grads_, row.index, head, row.first_query), row.queries);
  }

  void sum_dots(const Row& row, int64_t head, Matrix<const T> grad_out, C* dots) const {
    const Matrix<const T> out = head_of<T>(a_.out, a_.out_strides, row.index, head, row.first_query);
    const C* grad_lse =
        a_.grad_lse == nullptr ? nullptr : head_of<C>(a_.grad_lse, lse_strides_, row.index, head, row.first_query).data;
    for (int64_t i = 0; i < row.queries; ++i) {
      Vec<C> dot = {};
      for (int64_t d = 0; d < s_.head_size; d += kLanes<C>) {
        const int lanes = static_cast<int>(smaller(s_.head_size - d, kLanes<C>));
        dot += load(out[i] + d, lanes) * load(grad_out[i] + d, lanes);
      }
      dots[i] = sum<C>(dot) - (grad_lse == nullptr ? C{0} : grad_lse[i]);
    }
  }

  // Weights and score gradients of a tile of queries against a panel of keys, and what they add to grad_q.
  void run_tile(const QueryHead<T>& h, Range queries, Range keys, Products& products) const {
    const Range all = h.row.visible(queries);
    const int64_t seen = smaller(all.end, keys.end) - keys.begin;
    if (seen <= 0 || all.begin >= keys.end) return;
    const int64_t columns = round_up(seen, kLanes<C>);
    const C factor = products.score(queries, keys.begin, columns);
    for (int64_t i = queries.begin; i < queries.end; i += Products::kTogether) {
      const Range together = {i, smaller(i + Products::kTogether, queries.end)};
      weigh(h, together, keys, columns, factor, products.weights_of(i), products.grads_of(i));
    }
    products.add_query_gradients(queries, keys.begin, seen);
  }

  // In: products with q, and the gradient of the weights. Out: weights, and the gradient of the products.
  WORDKILN_INLINE void weigh(const QueryHead<T>& h, Range queries, Range keys, int64_t columns, C factor, C* weights,
                             C* grads) const {
    constexpr int kRows = Products::kTogether;
    const int64_t count = queries.end - queries.begin;
    // A tile at the end has fewer rows: the others repeat the last one's limits, and nobody reads them.
    Range limits[kRows];
    C lse[kRows], dots[kRows];
    for (int64_t i = 0; i < kRows; ++i) {
      const int64_t query = queries.begin + smaller(i, count - 1);
      limits[i] = within(h.row.visible(query), keys.begin, columns);
      lse[i] = static_cast<C>(kLog2E) * h.lse[query];
      dots[i] = h.dots[query];
    }
    if (h.changed) {
      for (int64_t i = 0; i < count; ++i) {
        run_changed_row(h, queries.begin + i, keys.begin, limits[i], factor, weights + i * kPanel, grads + i * kPanel,
                        lse[i], dots[i]);
      }
    } else {
      run_rows<kRows>(weights, grads, columns, factor, lse, dots);
    }
    mask(weights, kPanel, limits, kPanel, C{0});
    mask(grads, kPanel, limits, kPanel, C{0});
  }

  template <int kRows>
  static WORDKILN_INLINE void run_rows(C* weights, C* grads, int64_t columns, C factor, const C* lse, const C* dots) {
    for (int64_t j = 0; j < columns; j += kLanes<C>) {
      WORDKILN_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const Vec<C> weight = Products::exp2(load(weights + i * kPanel + j) * factor - lse[i]);
        store(weights + i * kPanel + j, weight);
        store(grads + i * kPanel + j, weight * (load(grads + i * kPanel + j) - dots[i]));
      }
    }
  }

  void run_changed_row(const QueryHead<T>& h, int64_t query, int64_t key, Range seen, C factor, C* weights, C* grads,
                       C lse, C dot) const {
    C factors[kPanel], unscaled[kPanel];  // of dropout; gradients of the scores before the cap's derivative
    if (h.dropout.any()) h.dropout.draw(query, key, factors);
    for (int64_t j = seen.begin / kLanes<C> * kLanes<C>; j < seen.end; j += kLanes<C>) {
      Vec<C> x = factor * load(weights + j), slope = broadcast(C{1});
      if (h.change.cap != 0) {
        const Vec<C> ratio = tanh<C>(x);
        x = h.change.cap * ratio;
        slope -= ratio * ratio;
      }
      Vec<C> weight = exp2<C>(h.change.add_bias(x, query, key + j) - lse), grad = load(grads + j);
      const Vec<C> kept = h.dropout.any() ? load(factors + j) : broadcast(C{1});
      grad = weight * (kept * grad - dot);
      store(weights + j, kept * weight);
      store(unscaled + j, grad);
      store(grads + j, slope * grad);
    }
    if (h.grad_bias == nullptr) return;
    C* grad_bias = h.grad_bias + query * a_.grad_bias_strides.row;
    const int64_t step = a_.grad_bias_strides.key;
    for (int64_t j = seen.begin; j < seen.end; ++j) grad_bias[(key + j) * step] += unscaled[j];
  }

  const AttentionBackward& a_;
  const AttentionSizes& s_;
  AttentionStrides q_grads_, k_grads_, lse_strides_;
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
