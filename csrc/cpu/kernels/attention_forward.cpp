// Online softmax over blocks of keys (docs/attention.md). A work item is a run of query tiles of one key head: its
// keys and values are packed once for all query heads that share them. What an item computes does not depend on where
// the runs are cut, so results do not depend on the number of threads.
#include "cpu/kernels/attention_decode.h"
#include "cpu/kernels/attention_scores.h"
#include "cpu/kernels/kernels.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kKeyBlock = 256;  // keys between two looks at the largest score; a multiple of kPanel

// One thread's scratch.
template <typename C>
struct ForwardScratch {
  C* keys;    // packed
  C* values;  // [K][padded]
  C* q;       // [kTileRows][padded], scaled
  C* out;     // [kTileRows][padded], not yet divided
  C* scores;  // [kTileRows][kKeyBlock]

  static int64_t size(const AttentionSizes& s) {
    const int64_t keys = round_up(s.keys, kPanel), width = padded<C>(s.head_size);
    return keys * (s.head_size + width) + kTileRows * (2 * width + kKeyBlock) + 5 * kPanel;
  }

  ForwardScratch(C* memory, const AttentionSizes& s) {
    const int64_t rows = round_up(s.keys, kPanel), width = padded<C>(s.head_size);
    keys = take(memory, rows * s.head_size);
    values = take(memory, rows * width);
    q = take(memory, kTileRows * width);
    out = take(memory, kTileRows * width);
    scores = take(memory, kTileRows * kKeyBlock);
  }
};

template <typename T>
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
      : a_(arguments),
        s_(arguments.sizes),
        width_(padded<C>(arguments.sizes.head_size)),
        lse_strides_(contiguous(arguments.scores, s_.heads, s_.queries, 1)) {}

  void run() {
    const int64_t heads = s_.batch * s_.kv_heads;
    if (s_.batch * s_.heads * s_.queries == 0) return;
    const AttentionSizes row = largest_row(s_, a_.scores);
    const double scores =
        static_cast<double>(s_.batch * s_.heads) * static_cast<double>(row.queries) * static_cast<double>(row.keys);
    const int threads = threads_for(2.0 * scores * static_cast<double>(s_.head_size));
    // Packing is repeated for every run, so heads are cut into several only where there are too few of them.
    const int64_t runs = clamp((2 * threads + heads - 1) / heads, 1, threads == 1 ? 1 : row.queries / kTileRows + 1);
    const int64_t size = round_up(ForwardScratch<C>::size(row), kPanel);
    const Workspace workspace(static_cast<size_t>(threads) * size * sizeof(C));
    C* memory = static_cast<C*>(workspace.data());
    parallel_items(heads * runs, threads, [=, this](int64_t item, int thread) {
      // Later runs of a causal head are longer: hand them out first.
      run_head(item / runs, runs - 1 - item % runs, runs, ForwardScratch<C>(memory + thread * size, row));
    });
  }

 private:
  void run_head(int64_t item, int64_t run, int64_t runs, const ForwardScratch<C>& scratch) const {
    const int64_t kv_head = item % s_.kv_heads, group = s_.heads / s_.kv_heads;
    const Row row(s_, a_.scores, item / s_.kv_heads);
    const Range tiles = split((row.queries + kTileRows - 1) / kTileRows, run, runs);
    const Range queries = {tiles.begin * kTileRows, smaller(tiles.end * kTileRows, row.queries)};
    const Range keys = row.visible(queries);
    const Matrix<const T> k = head_of<T>(a_.k, a_.k_strides, row.index, kv_head, row.first_key + keys.begin);
    const Matrix<const T> v = head_of<T>(a_.v, a_.v_strides, row.index, kv_head, row.first_key + keys.begin);
    pack_keys(k, keys.end - keys.begin, s_.head_size, scratch.keys);
    copy_rows(v, keys.end - keys.begin, s_.head_size, C{1}, scratch.values, width_);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const QueryHead h = {row, head, ScoreChange<T>(a_.scores, row, head),
                           Dropout(a_.scores, row.index, s_.heads, head)};
      for (int64_t first = queries.begin; first < queries.end; first += kTileRows) {
        run_tile(h, {first, smaller(first + kTileRows, queries.end)}, keys.begin, scratch);
      }
    }
  }

  // A tile of queries against all the keys that they see; `packed`: the first key in scratch.
  void run_tile(const QueryHead& h, Range queries, int64_t packed, const ForwardScratch<C>& scratch) const {
    const int64_t count = queries.end - queries.begin;
    const Matrix<const T> q = head_of<T>(a_.q, a_.q_strides, h.row.index, h.head, h.row.first_query + queries.begin);
    copy_rows(q, count, s_.head_size, static_cast<C>(query_scale(a_.scores)), scratch.q, width_);
    const Range keys = h.row.visible(queries);
    SoftmaxSums<C> sums[kTileRows];
    for (int64_t key = keys.begin; key < keys.end; key += kKeyBlock) {
      const int64_t seen = smaller(keys.end - key, kKeyBlock), columns = round_up(seen, kLanes<C>);
      multiply_panels<C>(count, columns, s_.head_size, {scratch.q, width_, 1},
                         scratch.keys + (key - packed) * s_.head_size, scratch.scores, kKeyBlock);
      const bool first = key == keys.begin;
      weigh(h, queries, key, columns, scratch, sums, first);
      multiply<C>(count, width_, seen, {scratch.scores, kKeyBlock, 1}, scratch.values + (key - packed) * width_, width_,
                  scratch.out, width_, !first);
    }
    finish(h, queries, sums, scratch.out);
  }

  // Scores to weights; what the queries have summed so far shrinks to fit.
  WORDKILN_INLINE void weigh(const QueryHead& h, Range queries, int64_t key, int64_t columns,
                             const ForwardScratch<C>& scratch, SoftmaxSums<C>* sums, bool first) const {
    const int64_t count = queries.end - queries.begin;
    // A tile at the end has fewer rows: the others repeat the last one's limits, and nobody reads them.
    Range seen[kTileRows];
    for (int64_t i = 0; i < kTileRows; ++i) {
      seen[i] = within(h.row.visible(queries.begin + smaller(i, count - 1)), key, columns);
    }
    for (int64_t i = 0; i < count && h.change.any(); ++i) {
      h.change.apply(scratch.scores + i * kKeyBlock, columns, queries.begin + i, key);
    }
    mask(scratch.scores, kKeyBlock, seen, columns, -kInfinity<C>);
    C shrink[kTileRows];
    add_largest(scratch.scores, kKeyBlock, columns, sums, shrink);
    for (int64_t i = 0; i < count && !first; ++i) {
      if (shrink[i] != C{1}) scale_row(scratch.out + i * width_, width_, shrink[i]);
    }
    add_weights<kTileRows>(scratch.scores, kKeyBlock, columns, sums);
    for (int64_t i = 0; i < count && h.dropout.any(); ++i) {
      h.dropout.apply(scratch.scores + i * kKeyBlock, queries.begin + i, key, columns);
    }
  }

  void finish(const QueryHead& h, Range queries, const SoftmaxSums<C>* sums, C* rows) const {
    C* lse = head_of<C>(a_.lse, lse_strides_, h.row.index, h.head, h.row.first_query).data;
    const Matrix<T> out = head_of<T>(a_.out, a_.out_strides, h.row.index, h.head, h.row.first_query);
    for (int64_t query = queries.begin; query < queries.end; ++query) {
      const int64_t i = query - queries.begin;
      const Range seen = h.row.visible(query);
      const bool sees = seen.begin < seen.end;
      if (!sees) fill(rows + i * width_, width_, C{0});
      write_rows<T>(rows + i * width_, width_, 1, s_.head_size, sees ? C{1} / sums[i].total : C{0}, {out[query], 0});
      lse[query] = sees ? log_sum(sums[i]) : -kInfinity<C>;
    }
  }

  const AttentionForward& a_;
  const AttentionSizes& s_;
  int64_t width_;
  AttentionStrides lse_strides_;
};

template <typename T>
void forward(const AttentionForward& arguments) {
  if (AttentionDecodePass<T>::takes(arguments)) return AttentionDecodePass<T>(arguments).run();
  AttentionForwardPass<T>(arguments).run();
}

}  // namespace

void attention_forward_float32(const AttentionForward& arguments) { forward<float>(arguments); }

void attention_forward_float64(const AttentionForward& arguments) { forward<double>(arguments); }

void attention_forward_bfloat16(const AttentionForward& arguments) { forward<Bfloat16>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
