// A few queries over a long cache (docs/attention.md, Decoding): keys and values are read where they lie, once, and
// the keys are cut into chunks for the threads. The chunks do not depend on the number of threads, nor do results.
#pragma once

#include "cpu/kernels/attention_scores.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kChunk = 512;       // keys of a work item
constexpr int64_t kFewQueries = 4;    // above, packing the keys pays
constexpr int64_t kRowsTogether = 4;  // query rows that share a load of a value

// Several query rows (query heads of one key head times queries) over some keys; what they have summed so far.
template <typename C>
struct DecodeSums {
  SoftmaxSums<C>* softmax;  // [rows]
  C* out;                   // [rows][padded]
};

// One thread's scratch.
template <typename C>
struct DecodeScratch {
  C* q;       // [rows][padded], scaled
  C* scores;  // [rows][kPanel]

  static int64_t size(int64_t rows, int64_t width) { return round_up(rows * width, kPanel) + rows * kPanel; }

  DecodeScratch(C* memory, int64_t rows, int64_t width) {
    q = take(memory, rows * width);
    scores = take(memory, rows * kPanel);
  }
};

// Scores of `count` <= kKeys keys against kRows queries, a lane each: row after row. A key is read from its first
// element to its last, four at a time, as prefetchers follow it: a key for each lane at once took an eighth longer.
// ahead: how many elements behind each read one the next panel's are, to fetch them.
template <typename E, int kRows, typename C = Computed<E>>
WORDKILN_INLINE Vec<C> dot_keys(Matrix<const E> keys, int64_t count, const C* q, int64_t q_row, int64_t head_size,
                                int64_t ahead) {
  constexpr int kKeys = kLanes<C> / kRows, kAtOnce = kKeys < 4 ? kKeys : 4;
  Vec<C> sums[kLanes<C>];
  WORDKILN_UNROLL
  for (int first = 0; first < kKeys; first += kAtOnce) {
    const E* key[kAtOnce];
    Vec<C> acc[kRows][kAtOnce] = {};
    WORDKILN_UNROLL
    for (int k = 0; k < kAtOnce; ++k) key[k] = keys[first + k < count ? first + k : count - 1];
    for (int64_t d = 0; d < head_size; d += kLanes<C>) {
      const int lanes = static_cast<int>(smaller(head_size - d, kLanes<C>));
      WORDKILN_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        __builtin_prefetch(key[k] + d + ahead, 0, 2);
        const Vec<C> y = lanes == kLanes<C> ? load(key[k] + d) : load(key[k] + d, lanes);
        WORDKILN_UNROLL
        for (int i = 0; i < kRows; ++i) acc[i][k] += load(q + i * q_row + d) * y;
      }
    }
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      WORDKILN_UNROLL
      for (int k = 0; k < kAtOnce; ++k) sums[i * kKeys + first + k] = acc[i][k];
    }
  }
  return sum_each<C>(sums);
}

// out[i] += weights[i] values, for kRows rows and kVectors vectors of columns; the last one of `lanes` elements.
template <typename E, int kRows, int kVectors, typename C = Computed<E>>
WORDKILN_INLINE void add_values(const C* weights, Matrix<const E> values, int64_t count, int lanes, C* out,
                                int64_t out_row, int64_t ahead) {
  Vec<C> acc[kRows][kVectors];
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) acc[i][j] = load(out + i * out_row + j * kLanes<C>);
  }
  for (int64_t k = 0; k < count; ++k) {
    Vec<C> value[kVectors];
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      __builtin_prefetch(values[k] + j * kLanes<C> + ahead, 0, 2);
      value[j] = j + 1 < kVectors || lanes == kLanes<C> ? load(values[k] + j * kLanes<C>)
                                                        : load(values[k] + j * kLanes<C>, lanes);
    }
    WORDKILN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      WORDKILN_UNROLL
      for (int j = 0; j < kVectors; ++j) acc[i][j] += weights[i * kPanel + k] * value[j];
    }
  }
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int j = 0; j < kVectors; ++j) store(out + i * out_row + j * kLanes<C>, acc[i][j]);
  }
}

template <typename T>
class AttentionDecodePass {
  typedef Computed<T> C;
  // Query rows that share a load of a key.
  static constexpr int kScored = kLanes<C> < kRowsTogether ? kLanes<C> : static_cast<int>(kRowsTogether);

 public:
  static bool takes(const AttentionForward& a) {
    return a.pages.table != nullptr ||
           (a.sizes.queries <= kFewQueries && a.scores.query_offsets == nullptr && a.scores.dropout == 0);
  }

  explicit AttentionDecodePass(const AttentionForward& arguments)
      : a_(arguments),
        s_(arguments.sizes),
        width_(padded<C>(s_.head_size)),
        rows_(round_up(s_.heads / s_.kv_heads * s_.queries, kRowsTogether)),
        chunks_(s_.keys == 0 ? 1 : (s_.keys + kChunk - 1) / kChunk),
        sums_size_(round_up(2 * rows_, kPanel) + round_up(rows_ * width_, kPanel)) {}

  void run() {
    if (s_.batch * s_.heads * s_.queries == 0) return;
    const int64_t heads = s_.batch * s_.kv_heads, items = heads * chunks_;
    const double work = static_cast<double>(items) * static_cast<double>(rows_) *
                        static_cast<double>(smaller(s_.keys, kChunk)) * static_cast<double>(s_.head_size);
    const int threads = static_cast<int>(smaller(threads_for(2 * work), items));
    const int64_t scratch_size = round_up(DecodeScratch<C>::size(rows_, width_), kPanel);
    const Workspace workspace((static_cast<size_t>(threads) * scratch_size + static_cast<size_t>(items) * sums_size_) *
                              sizeof(C));
    C* memory = static_cast<C*>(workspace.data());
    C* sums = memory + threads * scratch_size;
    parallel_items(items, threads, [=, this](int64_t item, int thread) {
      const Row row(s_, a_.scores, item / chunks_ / s_.kv_heads);
      run_chunk(row, item / chunks_ % s_.kv_heads, item % chunks_,
                DecodeScratch<C>(memory + thread * scratch_size, rows_, width_), sums_at(sums, item));
    });
    parallel_items(heads, chunks_ == 1 ? 1 : static_cast<int>(smaller(threads, heads)), [=, this](int64_t item, int) {
      const Row row(s_, a_.scores, item / s_.kv_heads);
      merge(sums, item * chunks_);
      finish(row, item % s_.kv_heads, sums_at(sums, item * chunks_));
    });
  }

 private:
  DecodeSums<C> sums_at(C* memory, int64_t item) const {
    memory += item * sums_size_;
    C* softmax = take(memory, 2 * rows_);
    return {reinterpret_cast<SoftmaxSums<C>*>(softmax), memory};
  }

  int64_t used_rows() const { return s_.heads / s_.kv_heads * s_.queries; }

  void run_chunk(const Row& row, int64_t kv_head, int64_t chunk, const DecodeScratch<C>& scratch,
                 const DecodeSums<C>& sums) const {
    for (int64_t i = 0; i < rows_; ++i) sums.softmax[i] = SoftmaxSums<C>();
    fill(sums.out, rows_ * width_, C{0});
    fill(scratch.scores, rows_ * kPanel, C{0});
    fill(scratch.q, rows_ * width_, C{0});
    const int64_t group = s_.heads / s_.kv_heads;
    for (int64_t i = 0; i < used_rows(); ++i) {
      copy_rows(head_of<T>(a_.q, a_.q_strides, row.index, kv_head * group + i / s_.queries, i % s_.queries), 1,
                s_.head_size, static_cast<C>(query_scale(a_.scores)), scratch.q + i * width_, width_);
    }
    const Range keys = row.visible({0, s_.queries});
    const int64_t end = smaller(keys.end, (chunk + 1) * kChunk);
    for (int64_t key = keys.begin > chunk * kChunk ? keys.begin : chunk * kChunk; key < end;) {
      const int64_t count = together(key, end);
      // What lies behind the chunk or in another page is another's.
      const int64_t ahead = a_.pages.table == nullptr && key + count < end ? kPanel : 0;
      run_panel(row, kv_head, key, count, ahead, scratch, sums);
      key += count;
    }
  }

  // How many keys from `key` on lie in one piece, at most kPanel.
  int64_t together(int64_t key, int64_t end) const {
    const int64_t count = smaller(end - key, kPanel);
    return a_.pages.table == nullptr ? count : smaller(count, a_.pages.page_size - key % a_.pages.page_size);
  }

  Matrix<const T> rows_from(const void* x, const AttentionStrides& strides, int64_t row, int64_t kv_head,
                            int64_t key) const {
    if (a_.pages.table == nullptr) return head_of<T>(x, strides, row, kv_head, key);
    const int64_t page = a_.pages.table[row * a_.pages.pages + key / a_.pages.page_size];
    return head_of<T>(x, strides, page, kv_head, key % a_.pages.page_size);
  }

  // ahead: how many keys on the next panel is, to be fetched meanwhile; 0: not. (Prefetchers stop at each page of 4 KB.
  // From memory this takes 2 to 46 % off the time.)
  void run_panel(const Row& row, int64_t kv_head, int64_t key, int64_t count, int64_t ahead,
                 const DecodeScratch<C>& scratch, const DecodeSums<C>& sums) const {
    const Matrix<const T> k = rows_from(a_.k, a_.k_strides, row.index, kv_head, key);
    const Matrix<const T> v = rows_from(a_.v, a_.v_strides, row.index, kv_head, key);
    for (int64_t i = 0; i < used_rows(); i += used_rows() == 1 ? 1 : kScored) {
      if (used_rows() == 1) {
        score<1>(k, count, ahead * k.row, scratch.q, scratch.scores);
      } else {
        score<kScored>(k, count, ahead * k.row, scratch.q + i * width_, scratch.scores + i * kPanel);
      }
    }
    for (int64_t i = 0; i < used_rows(); ++i) weigh(row, kv_head, i, key, count, scratch.scores + i * kPanel, sums);
    add(scratch.scores, v, count, ahead * v.row, sums.out);
  }

  template <int kRows>
  void score(Matrix<const T> keys, int64_t count, int64_t ahead, const C* q, C* scores) const {
    constexpr int kKeys = kLanes<C> / kRows;
    for (int64_t j = 0; j < round_up(count, kLanes<C>); j += kKeys) {
      const int64_t at = smaller(j, count - 1);
      C lanes[kLanes<C>];
      store(lanes, dot_keys<T, kRows>({keys[at], keys.row}, count - at, q, width_, s_.head_size, ahead));
      for (int i = 0; i < kRows; ++i) __builtin_memcpy(scores + i * kPanel + j, lanes + i * kKeys, kKeys * sizeof(C));
    }
  }

  void weigh(const Row& row, int64_t kv_head, int64_t i, int64_t key, int64_t count, C* scores,
             const DecodeSums<C>& sums) const {
    const int64_t head = kv_head * (s_.heads / s_.kv_heads) + i / s_.queries, query = i % s_.queries;
    const int64_t columns = round_up(count, kLanes<C>);
    const ScoreChange<T> change(a_.scores, row, head);
    if (change.any()) change.apply(scores, columns, query, key);
    const Range seen[1] = {within(row.visible(query), key, count)};
    mask(scores, kPanel, seen, columns, -kInfinity<C>);
    C shrink[1];
    add_largest(scores, kPanel, columns, C{1}, sums.softmax + i, shrink);
    add_weights<1>(scores, kPanel, columns, sums.softmax + i);
    if (shrink[0] != C{1}) scale_row(sums.out + i * width_, width_, shrink[0]);
  }

  void add(const C* weights, Matrix<const T> values, int64_t count, int64_t ahead, C* out) const {
    if (used_rows() == 1) return add_rows<1>(weights, values, count, ahead, out);
    for (int64_t i = 0; i < used_rows(); i += kRowsTogether) {
      add_rows<kRowsTogether>(weights + i * kPanel, values, count, ahead, out + i * width_);
    }
  }

  template <int kRows>
  void add_rows(const C* weights, Matrix<const T> values, int64_t count, int64_t ahead, C* out) const {
    constexpr int64_t kLane = kLanes<C>;
    int64_t d = 0;
    for (; d + 4 * kLane <= s_.head_size; d += 4 * kLane) {
      add_values<T, kRows, 4>(weights, {values.data + d, values.row}, count, kLanes<C>, out + d, width_, ahead);
    }
    for (; d < s_.head_size; d += kLane) {
      const int lanes = static_cast<int>(smaller(s_.head_size - d, kLane));
      add_values<T, kRows, 1>(weights, {values.data + d, values.row}, count, lanes, out + d, width_, ahead);
    }
  }

  // The chunks of a head into its first.
  void merge(C* memory, int64_t first) const {
    const DecodeSums<C> all = sums_at(memory, first);
    for (int64_t item = first + 1; item < first + chunks_; ++item) {
      const DecodeSums<C> part = sums_at(memory, item);
      for (int64_t i = 0; i < used_rows(); ++i) {
        const C largest[2] = {all.softmax[i].largest, part.softmax[i].largest};
        const C next = largest[0] > largest[1] ? largest[0] : largest[1], base = next == -kInfinity<C> ? C{0} : next;
        const C ours = exp2<C>(broadcast<C>(largest[0] - base))[0];
        const C theirs = exp2<C>(broadcast<C>(largest[1] - base))[0];
        all.softmax[i] = {next, ours * all.softmax[i].total + theirs * part.softmax[i].total};
        for (int64_t d = i * width_; d < (i + 1) * width_; d += kLanes<C>) {
          store(all.out + d, ours * load(all.out + d) + theirs * load(part.out + d));
        }
      }
    }
  }

  void finish(const Row& row, int64_t kv_head, const DecodeSums<C>& sums) const {
    const AttentionStrides lse_strides = contiguous(a_.scores, s_.heads, s_.queries, 1);
    for (int64_t i = 0; i < used_rows(); ++i) {
      const int64_t head = kv_head * (s_.heads / s_.kv_heads) + i / s_.queries, query = i % s_.queries;
      const Range seen = row.visible(query);
      const bool sees = seen.begin < seen.end;
      *head_of<C>(a_.lse, lse_strides, row.index, head, query).data = sees ? log_sum(sums.softmax[i]) : -kInfinity<C>;
      const Matrix<T> out = head_of<T>(a_.out, a_.out_strides, row.index, head, query);
      write_rows<T>(sums.out + i * width_, width_, 1, s_.head_size, sees ? C{1} / sums.softmax[i].total : C{0}, out);
    }
  }

  const AttentionForward& a_;
  const AttentionSizes& s_;
  int64_t width_, rows_, chunks_, sums_size_;
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
