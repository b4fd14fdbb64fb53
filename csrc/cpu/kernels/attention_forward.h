// Online softmax over blocks of keys (docs/attention.md). A work item is a run of query tiles of one key head: its
// keys and values are packed once for all query heads that share them. What an item computes does not depend on where
// the runs are cut, so results do not depend on the number of threads.
//
// Products is one thread's scratch and the two products of a tile of queries with some keys and values:
//   kRows queries are a tile, kTogether of them go through the softmax at a time, against kKeys keys at most;
//   Products::bytes(sizes), Products(memory, sizes)
//   pack(keys, values, count)            what the next tiles see
//   take_queries(queries, count, scale)          what the next products are of
//   score(count, key, seen) -> factor    scores[i * kScoreRow + j] times factor are what ScoreChange takes
//   weigh(row, columns, seen, factor, sums)  kTogether rows of scores become weights(row); 0 from columns to seen
//   add_values(count, key, seen, first)  out[i][out_row] (+)= weights values
#pragma once

#include "cpu/kernels/attention_scores.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename T, typename Products>
class AttentionForwardPass {
  typedef Computed<T> C;

  // One query head of one row.
  struct QueryHead {
    const Row& row;
    int64_t head;
    ScoreChange<T> change;
    Dropout dropout;
  };

 public:
  explicit AttentionForwardPass(const AttentionForward& arguments)
      : a_(arguments), s_(arguments.sizes), lse_strides_(contiguous(arguments.scores, s_.heads, s_.queries, 1)) {}

  void run() {
    const int64_t heads = s_.batch * s_.kv_heads;
    if (s_.batch * s_.heads * s_.queries == 0) return;
    const AttentionSizes row = largest_row(s_, a_.scores);
    const double scores =
        static_cast<double>(s_.batch * s_.heads) * static_cast<double>(row.queries) * static_cast<double>(row.keys);
    const int threads = threads_for(2.0 * scores * static_cast<double>(s_.head_size));
    // Packing is repeated for every run, so heads are cut into several only where there are too few of them.
    const int64_t most = threads == 1 ? 1 : row.queries / Products::kRows + 1;
    const int64_t runs = clamp((2 * threads + heads - 1) / heads, 1, most);
    const int64_t bytes = round_up(Products::bytes(row), 4096);
    const Workspace workspace(static_cast<size_t>(threads) * bytes);
    char* memory = static_cast<char*>(workspace.data());
    parallel_items(heads * runs, threads, [=, this](int64_t item, int thread) {
      Products products(memory + thread * bytes, row);
      // Later runs of a causal head are longer: hand them out first.
      run_head(item / runs, runs - 1 - item % runs, runs, products);
    });
  }

 private:
  void run_head(int64_t item, int64_t run, int64_t runs, Products& products) const {
    const int64_t kv_head = item % s_.kv_heads, group = s_.heads / s_.kv_heads;
    const Row row(s_, a_.scores, item / s_.kv_heads);
    const Range tiles = split((row.queries + Products::kRows - 1) / Products::kRows, run, runs);
    const Range queries = {tiles.begin * Products::kRows, smaller(tiles.end * Products::kRows, row.queries)};
    const Range keys = row.visible(queries);
    products.pack(head_of<T>(a_.k, a_.k_strides, row.index, kv_head, row.first_key + keys.begin),
                  head_of<T>(a_.v, a_.v_strides, row.index, kv_head, row.first_key + keys.begin),
                  keys.end - keys.begin);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const QueryHead h = {row, head, ScoreChange<T>(a_.scores, row, head),
                           Dropout(a_.scores, row.index, s_.heads, head)};
      for (int64_t first = queries.begin; first < queries.end; first += Products::kRows) {
        run_tile(h, {first, smaller(first + Products::kRows, queries.end)}, keys.begin, products);
      }
    }
  }

  // A tile of queries against all the keys that they see; `packed`: the first key that is packed.
  void run_tile(const QueryHead& h, Range queries, int64_t packed, Products& products) const {
    const int64_t count = queries.end - queries.begin;
    products.take_queries(head_of<T>(a_.q, a_.q_strides, h.row.index, h.head, h.row.first_query + queries.begin), count,
                          static_cast<C>(query_scale(a_.scores)));
    const Range keys = h.row.visible(queries);
    SoftmaxSums<C> sums[Products::kRows];
    for (int64_t key = keys.begin; key < keys.end; key += Products::kKeys) {
      const int64_t seen = smaller(keys.end - key, Products::kKeys);
      const C factor = products.score(count, key - packed, seen);
      const bool first = key == keys.begin;
      for (int64_t i = 0; i < count; i += Products::kTogether) {
        weigh(h, {queries.begin + i, smaller(queries.begin + i + Products::kTogether, queries.end)}, i, key, seen,
              factor, products, sums + i, first);
      }
      products.add_values(count, key - packed, seen, first);
    }
    finish(h, queries, sums, products);
  }

  // Scores to weights; what the queries have summed so far shrinks to fit. `at`: the first query's row.
  WORDKILN_INLINE void weigh(const QueryHead& h, Range queries, int64_t at, int64_t key, int64_t tile_seen, C factor,
                             Products& products, SoftmaxSums<C>* sums, bool first) const {
    const int64_t count = queries.end - queries.begin, seen_end = h.row.visible(queries.end - 1).end - key;
    const int64_t columns = round_up(clamp(seen_end, 0, tile_seen), Products::kColumns);
    // A tile at the end has fewer rows: the others repeat the last one's limits, and nobody reads them.
    Range seen[Products::kTogether];
    for (int64_t i = 0; i < Products::kTogether; ++i) {
      seen[i] = within(h.row.visible(queries.begin + smaller(i, count - 1)), key, columns);
    }
    C* scores = products.scores + at * Products::kScoreRow;
    if (h.change.any() || !(factor > 0)) {  // the largest score times a negative factor would be the smallest
      for (int64_t i = 0; i < count; ++i) {
        if (factor != C{1}) scale_row(scores + i * Products::kScoreRow, columns, factor);
        if (h.change.any()) h.change.apply(scores + i * Products::kScoreRow, columns, queries.begin + i, key);
      }
      factor = 1;
    }
    mask(scores, Products::kScoreRow, seen, columns, -kInfinity<C>);
    C shrink[Products::kTogether];
    add_largest(scores, Products::kScoreRow, columns, factor, sums, shrink);
    for (int64_t i = 0; i < count && !first; ++i) {
      if (shrink[i] != C{1}) scale_row(products.out + (at + i) * products.out_row, products.out_row, shrink[i]);
    }
    products.weigh(at, columns, tile_seen, factor, sums);
    for (int64_t i = 0; i < count && h.dropout.any(); ++i) {
      h.dropout.apply(products.weights(at + i), queries.begin + i, key, columns);
    }
  }

  void finish(const QueryHead& h, Range queries, const SoftmaxSums<C>* sums, Products& products) const {
    C* lse = head_of<C>(a_.lse, lse_strides_, h.row.index, h.head, h.row.first_query).data;
    const Matrix<T> out = head_of<T>(a_.out, a_.out_strides, h.row.index, h.head, h.row.first_query);
    for (int64_t query = queries.begin; query < queries.end; ++query) {
      const int64_t i = query - queries.begin;
      const Range seen = h.row.visible(query);
      const bool sees = seen.begin < seen.end;
      C* row = products.out + i * products.out_row;
      if (!sees) fill(row, products.out_row, C{0});
      write_rows<T>(row, products.out_row, 1, s_.head_size, sees ? C{1} / sums[i].total : C{0}, {out[query], 0});
      lse[query] = sees ? log_sum(sums[i]) : -kInfinity<C>;
    }
  }

  const AttentionForward& a_;
  const AttentionSizes& s_;
  AttentionStrides lse_strides_;
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
