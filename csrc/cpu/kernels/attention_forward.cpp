// Online softmax over blocks of keys (docs/attention.md). A work item is a run of query blocks of one key head: its
// keys and values are packed once for all query heads that share them. What an item computes does not depend on where
// the runs are cut, so results do not depend on the number of threads.
#include "cpu/kernels/attention.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/math.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// One thread's scratch.
template <typename T>
struct ForwardScratch {
  T* keys;     // packed
  T* values;   // [K][padded]
  T* q;        // [kQueryBlock][head_size], scaled
  T* out;      // [kQueryBlock][padded], not yet divided
  T* scores;   // [kTileRows][kKeyBlock]
  T* largest;  // [kQueryBlock] of the scores so far
  T* total;    // [kQueryBlock] of exp(score - largest)

  static int64_t size(const AttentionSizes& s) {
    const int64_t keys = round_up(s.keys, kKeyBlock), width = padded<T>(s.head_size);
    return keys * (s.head_size + width) + kQueryBlock * (s.head_size + width) + kTileRows * kKeyBlock +
           2 * kQueryBlock + 8 * kKeyBlock;
  }

  ForwardScratch(T* memory, const AttentionSizes& s) {
    const int64_t rows = round_up(s.keys, kKeyBlock), width = padded<T>(s.head_size);
    keys = take(memory, rows * s.head_size);
    values = take(memory, rows * width);
    q = take(memory, kQueryBlock * s.head_size);
    out = take(memory, kQueryBlock * width);
    scores = take(memory, kTileRows * kKeyBlock);
    largest = take(memory, kQueryBlock);
    total = take(memory, kQueryBlock);
  }

 private:
  static T* take(T*& memory, int64_t count) {
    T* part = memory;
    memory += round_up(count, kKeyBlock);  // keeps every part on a cache line
    return part;
  }
};

// Turns one row's scores of a block (`seen` of them visible, `columns` in the tile) into weights. Returns the factor by
// which what was summed before must shrink.
template <typename T>
WORDKILN_INLINE T online_softmax(T* scores, int64_t seen, int64_t columns, T& largest_so_far, T& total) {
  constexpr T kInfinity = static_cast<T>(__builtin_inf());
  for (int64_t j = seen; j < columns; ++j) scores[j] = -kInfinity;
  Vec<T> top = broadcast<T>(-kInfinity);
  for (int64_t j = 0; j < columns; j += kLanes<T>) top = max<T>(load(scores + j), top);
  const T block_largest = largest<T>(top);
  const T next = block_largest > largest_so_far ? block_largest : largest_so_far;
  // Before the first visible score -inf - -inf would be NaN.
  const T base = next == -kInfinity ? T{0} : next;
  const T shrink = largest_so_far == next ? T{1} : exp<T>(broadcast<T>(largest_so_far - base))[0];
  Vec<T> sums = {};
  for (int64_t j = 0; j < columns; j += kLanes<T>) {
    const Vec<T> weights = exp<T>(load(scores + j) - base);
    sums += weights;
    store(scores + j, weights);
  }
  largest_so_far = next;
  total = total * shrink + sum<T>(sums);
  return shrink;
}

template <typename T>
class AttentionForwardPass {
 public:
  explicit AttentionForwardPass(const AttentionForward& arguments) : a_(arguments), s_(arguments.sizes) {}

  void run() {
    const int64_t heads = s_.batch * s_.kv_heads, blocks = (s_.queries + kQueryBlock - 1) / kQueryBlock;
    if (s_.batch * s_.heads * s_.queries == 0) return;
    const double scores =
        static_cast<double>(s_.batch * s_.heads) * static_cast<double>(s_.queries) * static_cast<double>(s_.keys);
    const int threads = threads_for(2.0 * scores * static_cast<double>(s_.head_size));
    // Packing is repeated for every run, so heads are cut into several only where there are too few of them.
    const int64_t runs = clamp((2 * threads + heads - 1) / heads, 1, threads == 1 ? 1 : blocks);
    const int64_t size = round_up(ForwardScratch<T>::size(s_), kKeyBlock);
    const Workspace workspace(static_cast<size_t>(threads) * size * sizeof(T));
    T* memory = static_cast<T*>(workspace.data());
    parallel_items(heads * runs, threads, [=, this](int64_t item, int thread) {
      // Later runs of a causal head are longer: hand them out first.
      const Range part = split(blocks, runs - 1 - item % runs, runs);
      run_head(item / runs, part, ForwardScratch<T>(memory + thread * size, s_));
    });
  }

 private:
  void run_head(int64_t item, Range blocks, const ForwardScratch<T>& scratch) const {
    const int64_t row = item / s_.kv_heads, kv_head = item % s_.kv_heads, group = s_.heads / s_.kv_heads;
    const Visibility visible(s_, a_.key_lengths, a_.causal, row);
    const int64_t end = smaller(blocks.end * kQueryBlock, s_.queries), keys = visible.keys(end - 1);
    const T* k = static_cast<const T*>(a_.k) + row * a_.k_strides.batch + kv_head * a_.k_strides.head;
    const T* v = static_cast<const T*>(a_.v) + row * a_.v_strides.batch + kv_head * a_.v_strides.head;
    pack_keys(k, a_.k_strides.row, keys, s_.head_size, scratch.keys);
    copy_rows(v, a_.v_strides.row, keys, s_.head_size, T{1}, scratch.values, padded<T>(s_.head_size));
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t first = blocks.begin * kQueryBlock; first < end; first += kQueryBlock) {
        run_block(row, head, {first, smaller(first + kQueryBlock, end)}, visible, scratch);
      }
    }
  }

  void run_block(int64_t row, int64_t head, Range queries, const Visibility& visible,
                 const ForwardScratch<T>& scratch) const {
    const int64_t count = queries.end - queries.begin, width = padded<T>(s_.head_size);
    const T* q = static_cast<const T*>(a_.q) + row * a_.q_strides.batch + head * a_.q_strides.head +
                 queries.begin * a_.q_strides.row;
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t d = 0; d < s_.head_size; ++d) {
        scratch.q[i * s_.head_size + d] = static_cast<T>(a_.scale) * q[i * a_.q_strides.row + d];
      }
      scratch.largest[i] = -static_cast<T>(__builtin_inf());
      scratch.total[i] = 0;
    }
    for (int64_t i = 0; i < count * width; ++i) scratch.out[i] = 0;
    const int64_t keys = visible.keys(queries.end - 1);
    for (int64_t key = 0; key < keys; key += kKeyBlock) {
      for (int64_t i = 0; i < count; i += kTileRows) {
        run_tile(queries.begin, {i, smaller(i + kTileRows, count)}, key, visible, scratch);
      }
    }
    finish(row, head, queries, visible, scratch);
  }

  // `rows` of a query block against the block of keys from `key`.
  void run_tile(int64_t first, Range rows, int64_t key, const Visibility& visible,
                const ForwardScratch<T>& scratch) const {
    const int64_t seen = smaller(visible.keys(first + rows.end - 1) - key, kKeyBlock);
    if (seen <= 0) return;
    const int64_t count = rows.end - rows.begin, columns = round_up(seen, kLanes<T>), width = padded<T>(s_.head_size);
    multiply<T>(count, columns, s_.head_size, {scratch.q + rows.begin * s_.head_size, s_.head_size, 1},
                scratch.keys + key * s_.head_size, kKeyBlock, scratch.scores, kKeyBlock, false);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const int64_t mine = clamp(visible.keys(first + i) - key, 0, seen);
      T* scores = scratch.scores + (i - rows.begin) * kKeyBlock;
      const T shrink = online_softmax(scores, mine, columns, scratch.largest[i], scratch.total[i]);
      if (shrink == T{1}) continue;
      T* out = scratch.out + i * width;
      for (int64_t d = 0; d < width; d += kLanes<T>) store(out + d, shrink * load(out + d));
    }
    multiply<T>(count, width, seen, {scratch.scores, kKeyBlock, 1}, scratch.values + key * width, width,
                scratch.out + rows.begin * width, width, true);
  }

  void finish(int64_t row, int64_t head, Range queries, const Visibility& visible,
              const ForwardScratch<T>& scratch) const {
    T* lse = static_cast<T*>(a_.lse) + (row * s_.heads + head) * s_.queries;
    T* out = static_cast<T*>(a_.out) + row * a_.out_strides.batch + head * a_.out_strides.head;
    for (int64_t query = queries.begin; query < queries.end; ++query) {
      const int64_t i = query - queries.begin;
      const bool sees = visible.keys(query) > 0;
      const T factor = sees ? T{1} / scratch.total[i] : T{0};
      lse[query] = sees ? scratch.largest[i] + static_cast<T>(__builtin_log(scratch.total[i]))
                        : -static_cast<T>(__builtin_inf());
      for (int64_t d = 0; d < s_.head_size; ++d) {
        out[query * a_.out_strides.row + d] = factor * scratch.out[i * padded<T>(s_.head_size) + d];
      }
    }
  }

  const AttentionForward& a_;
  const AttentionSizes& s_;
};

}  // namespace

void attention_forward_float32(const AttentionForward& arguments) { AttentionForwardPass<float>(arguments).run(); }

void attention_forward_float64(const AttentionForward& arguments) { AttentionForwardPass<double>(arguments).run(); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
