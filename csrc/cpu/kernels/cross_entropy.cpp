// Rows go by in chunks. The vocabulary is cut into blocks of columns, which the threads share. A chunk's logits and
// their statistics come first (product, online softmax); then, block by block, the gradient of the logits and both
// products that take it: into grad_hidden (each thread adds up its own share) and into grad_weight. The next chunk's
// logits of a block are made right after that, in the same place, while the block's weights are still in cache.
// Blocks stand on their side, [columns][rows]: the weights are read as they lie, and each lane is a row's softmax.
#include "cpu/kernels/cross_entropy.h"

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/packed_gemm.h"
#include "cpu/kernels/parallel.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kChunk = 192;  // rows. More would save traffic of the weights, at the price of memory
constexpr int64_t kBlock = 256;  // columns
constexpr int64_t kDepth = 768;  // of the first product at a time: chunk x depth stays in cache

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows that count, at most a chunk of them.
struct Chunk {
  int64_t* rows;   // which they are
  int64_t filled;  // how many,
  int64_t tiled;   // rounded up to whole panels
};

template <typename T>
class LinearCrossEntropyPass {
 public:
  explicit LinearCrossEntropyPass(const LinearCrossEntropy& a)
      : a_(a),
        hidden_(static_cast<const T*>(a.hidden)),
        weight_(static_cast<const T*>(a.weight)),
        rows_(a.sizes.rows),
        vocabulary_(a.sizes.vocabulary),
        width_(a.sizes.width),
        padded_(divide_up(a.sizes.width, kPanel<T>) * kPanel<T>),
        chunk_(smaller(kChunk, divide_up(a.sizes.rows, kPanel<T>) * kPanel<T>)),
        blocks_(divide_up(a.sizes.vocabulary, kBlock)),
        gradients_(a.grad_hidden != nullptr || a.grad_weight != nullptr || a.grad_bias != nullptr) {}

  void run() {
    int64_t counted = 0;
    for (int64_t i = 0; i < rows_; ++i) counted += a_.targets[i] != a_.ignore_index;
    scale_ = a_.mean ? 1.0 / static_cast<double>(counted) : 1.0;
    clear(counted);
    const double work = 2.0 * static_cast<double>(counted) * static_cast<double>(vocabulary_ * (width_ + 8));
    threads_ = static_cast<int>(smaller(threads_for(work), blocks_));
    const Workspace workspace(lay_out(nullptr));
    lay_out(static_cast<char*>(workspace.data()));
    double total = 0;
    choose_rows();
    while (next_.filled > 0 || current_.filled > 0) {
      parallel_threads(threads_, [this](int thread, int threads) { step(thread, threads); });
      for (int64_t i = 0; i < next_.filled; ++i) total += losses_[i];
      first_ = first_ && current_.filled == 0;
      const Chunk done = current_;
      current_ = next_;
      next_ = done;
      if (!gradients_) current_.filled = 0;
      choose_rows();
    }
    *a_.loss = total * scale_;
  }

 private:
  // What no chunk will write: gradients of rows that do not count, and of the weights where none does.
  void clear(int64_t counted) const {
    if (counted == 0 && a_.grad_weight) __builtin_memset(a_.grad_weight, 0, vocabulary_ * width_ * sizeof(T));
    if (a_.grad_bias) __builtin_memset(a_.grad_bias, 0, vocabulary_ * sizeof(T));
    if (a_.grad_hidden == nullptr || counted == rows_) return;
    for (int64_t i = 0; i < rows_; ++i) {
      if (a_.targets[i] == a_.ignore_index) __builtin_memset(grad_hidden(i), 0, width_ * sizeof(T));
    }
  }

  // Gives every array its place behind `memory`; returns their size in bytes.
  size_t lay_out(char* memory) {
    size_t used = 0;
    const auto take = [&]<typename X>(X*& array, int64_t count) {
      array = reinterpret_cast<X*>(memory + used);
      used += (count * sizeof(X) + 127) / 128 * 128;
    };
    const int64_t kept = gradients_ ? blocks_ : threads_;
    take(logits_, (gradients_ ? vocabulary_ : threads_ * kBlock) * chunk_);
    take(bases_, kept * chunk_);
    take(panels_, a_.grad_weight ? chunk_ * padded_ : 0);
    take(turned_, chunk_ * padded_);
    take(shares_, a_.grad_hidden ? threads_ * chunk_ * padded_ : 0);
    take(scratch_, threads_ * kBlock * kPanel<T>);
    take(statistics_, threads_ * chunk_ * 3);
    take(at_target_, chunk_);
    take(normalisers_, chunk_);
    take(scales_, chunk_);
    take(shifts_, chunk_);
    take(losses_, chunk_);
    take(current_.rows, chunk_);
    take(next_.rows, chunk_);
    return used;
  }

  void choose_rows() {
    for (next_.filled = 0; next_.filled < chunk_ && seen_ < rows_; ++seen_) {
      if (a_.targets[seen_] != a_.ignore_index) next_.rows[next_.filled++] = seen_;
    }
    next_.tiled = divide_up(next_.filled, kPanel<T>) * kPanel<T>;
  }

  // Gradients of the current chunk and logits of the next.
  void step(int thread, int threads) {
    if (a_.grad_weight) pack_hidden(split(current_.filled, thread, threads));
    turn_hidden(split(next_.tiled / kPanel<T>, thread, threads), scratch(thread));
    clear_statistics(statistics(thread));
    barrier();
    const Range mine = split(blocks_, thread, threads);
    for (int64_t block = mine.begin; block < mine.end; ++block) {
      if (current_.filled > 0) backward(block, thread, block == mine.begin);
      if (next_.filled > 0) forward(block, thread);
    }
    barrier();
    if (a_.grad_hidden) add_shares(split(current_.filled, thread, threads), threads);
    const Range rows = split(next_.filled, thread, threads);
    for (int64_t i = rows.begin; i < rows.end; ++i) finish_row(i, threads);
  }

  // Rows of the current chunk as panels for the product with the gradient of the logits.
  void pack_hidden(Range rows) const {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const T* from = hidden_ + current_.rows[i] * width_;
      for (int64_t e = 0; e < width_; e += kPanel<T>) {
        pack_rows(from + e, width_, width_ - e, 1, panels_ + e * chunk_ + i * kPanel<T>);
      }
    }
  }

  // Rows of the next chunk, transposed, for the product with the weights.
  void turn_hidden(Range panels, T* square) const {
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
      const int64_t first = panel * kPanel<T>, count = smaller(next_.filled - first, kPanel<T>);
      for (int64_t e = 0; e < width_; e += kPanel<T>) {
        for (int64_t i = 0; i < count; ++i) {
          pack_rows(hidden_ + next_.rows[first + i] * width_ + e, width_, width_ - e, 1, square + i * kPanel<T>);
        }
        const int64_t depth = smaller(width_ - e, kPanel<T>);
        pack_transposed(square, kPanel<T>, count, depth, turned_ + (panel * padded_ + e) * kPanel<T>);
      }
    }
  }

  T* scratch(int thread) const { return scratch_ + thread * kBlock * kPanel<T>; }

  RowStatistics<T> statistics(int thread) const {
    T* mine = statistics_ + thread * chunk_ * 3;
    return {mine, mine + chunk_, mine + 2 * chunk_};
  }

  void clear_statistics(RowStatistics<T> rows) const {
    for (int64_t i = 0; i < next_.tiled; ++i) {
      rows.largest[i] = kLeast<T>;
      rows.total[i] = rows.sum[i] = 0;
    }
  }

  int64_t slot(int64_t block, int thread) const { return gradients_ ? block : thread; }
  int64_t columns(int64_t block) const { return smaller(vocabulary_ - block * kBlock, kBlock); }

  void forward(int64_t block, int thread) const {
    const int64_t first = block * kBlock, count = columns(block);
    T* z = logits_ + slot(block, thread) * kBlock * chunk_;
    multiply_words(first, count, z);
    if (a_.bias) add_bias(z, static_cast<const T*>(a_.bias) + first, count);
    for (int64_t i = 0; i < next_.filled; ++i) {
      const int64_t target = a_.targets[next_.rows[i]] - first;
      if (target >= 0 && target < count) at_target_[i] = z[target * chunk_ + i];
    }
    const RowStatistics<T> rows = statistics(thread);
    T* bases = bases_ + slot(block, thread) * chunk_;
    for (int64_t i = 0; i < next_.tiled; i += kLanes<T>) {
      take_in(z + i, count, chunk_, {rows.largest + i, rows.total + i, rows.sum + i}, bases + i);
    }
  }

  // z[count, rows] = `count` rows of the weights times the turned hidden.
  void multiply_words(int64_t first, int64_t count, T* z) const {
    if (width_ == 0) __builtin_memset(z, 0, count * chunk_ * sizeof(T));
    for (int64_t k = 0; k < width_; k += kDepth) {
      const int64_t depth = smaller(width_ - k, kDepth);
      for (int64_t j = 0; j < count; j += kTileRows) {
        const int64_t words = smaller(count - j, kTileRows);
        const T* from = weight_ + (first + j) * width_ + k;
        for (int64_t i = 0; i < next_.tiled; i += kPanel<T>) {
          multiply_panel(words, depth, {from, width_, 1}, turned_ + (i * padded_ + k * kPanel<T>), z + j * chunk_ + i,
                         chunk_, kPanel<T>, k > 0);
        }
      }
    }
  }

  void add_bias(T* z, const T* bias, int64_t count) const {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = 0; i < next_.tiled; i += kLanes<T>) {
        store(z + j * chunk_ + i, load(z + j * chunk_ + i) + bias[j]);
      }
    }
  }

  // The loss of a row, and what its gradient needs.
  void finish_row(int64_t i, int threads) const {
    T top = kLeast<T>, total = 0, sum = 0;
    for (int t = 0; t < threads; ++t) top = statistics(t).largest[i] > top ? statistics(t).largest[i] : top;
    for (int t = 0; t < threads; ++t) {
      total += statistics(t).total[i] * exp<T>(broadcast(statistics(t).largest[i] - top))[0];
      sum += statistics(t).sum[i];
    }
    const double smoothing = a_.label_smoothing, words = static_cast<double>(vocabulary_);
    const double normaliser = static_cast<double>(top) + __builtin_log(static_cast<double>(total));
    double loss = normaliser - (1 - smoothing) * static_cast<double>(at_target_[i]);
    if (smoothing != 0) loss -= smoothing * static_cast<double>(sum) / words;
    losses_[i] = loss + a_.z_loss * normaliser * normaliser;
    normalisers_[i] = static_cast<T>(normaliser);
    scales_[i] = static_cast<T>(scale_ * (1 + 2 * a_.z_loss * normaliser));
    shifts_[i] = static_cast<T>(scale_ * smoothing / words);
  }

  void backward(int64_t block, int thread, bool first) const {
    const int64_t column = block * kBlock, count = columns(block);
    T* g = logits_ + block * kBlock * chunk_;
    turn_into_gradient(g, bases_ + block * chunk_, column, count);
    if (a_.grad_bias) add_to_bias(g, static_cast<T*>(a_.grad_bias) + column, count);
    T* share = shares_ + thread * chunk_ * padded_;
    for (int64_t e = 0; e < width_; e += kPanel<T>) {
      const int64_t wide = smaller(width_ - e, kPanel<T>);
      if (a_.grad_hidden) {
        pack_rows(weight_ + column * width_ + e, width_, wide, count, scratch(thread));
        multiply_panel(current_.filled, count, {g, 1, chunk_}, scratch(thread), share + e, padded_, kPanel<T>, !first);
      }
      if (a_.grad_weight) {
        T* to = static_cast<T*>(a_.grad_weight) + column * width_ + e;
        multiply_panel(count, current_.filled, {g, chunk_, 1}, panels_ + e * chunk_, to, width_, wide, !first_);
      }
    }
  }

  void turn_into_gradient(T* g, const T* bases, int64_t column, int64_t count) const {
    T factors[kChunk];
    for (int64_t i = 0; i < current_.tiled; i += kLanes<T>) {
      store(factors + i, exp<T>(load(bases + i) - load(normalisers_ + i)) * load(scales_ + i));
    }
    for (int64_t j = 0; j < count; ++j) to_gradient(g + j * chunk_, current_.tiled, factors, shifts_);
    const T at_target = static_cast<T>(scale_ * (1 - a_.label_smoothing));
    for (int64_t i = 0; i < current_.filled; ++i) {
      const int64_t target = a_.targets[current_.rows[i]] - column;
      if (target >= 0 && target < count) g[target * chunk_ + i] -= at_target;
    }
  }

  void add_to_bias(const T* g, T* to, int64_t count) const {
    for (int64_t j = 0; j < count; ++j) {
      Vec<T> total = {};
      for (int64_t i = 0; i < current_.filled; i += kLanes<T>) {
        total += load(g + j * chunk_ + i, static_cast<int>(smaller(current_.filled - i, kLanes<T>)));
      }
      to[j] += sum<T>(total);
    }
  }

  T* grad_hidden(int64_t row) const { return static_cast<T*>(a_.grad_hidden) + row * width_; }

  void add_shares(Range rows, int threads) const {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      T* to = grad_hidden(current_.rows[i]);
      for (int64_t e = 0; e < width_; ++e) {
        T total = 0;
        for (int t = 0; t < threads; ++t) total += shares_[(t * chunk_ + i) * padded_ + e];
        to[e] = total;
      }
    }
  }

  const LinearCrossEntropy& a_;
  const T* hidden_;
  const T* weight_;
  int64_t rows_, vocabulary_, width_, padded_, chunk_, blocks_;
  bool gradients_;
  int threads_ = 1;
  double scale_ = 1;  // of the sum of the losses
  Chunk current_ = {}, next_ = {};
  int64_t seen_ = 0;   // rows that were put into chunks, or skipped
  bool first_ = true;  // whether no chunk has written grad_weight
  T* logits_;          // [blocks][kBlock][chunk] next: logits, then exp(logit - base); current: their gradient
  T* bases_;           // [blocks][chunk]
  T* panels_;          // [padded / kPanel][chunk][kPanel] of hidden
  T* turned_;          // [chunk / kPanel][padded][kPanel] of hidden
  T* shares_;          // [threads][chunk][padded] of grad_hidden
  T* scratch_;         // [threads][kBlock][kPanel]
  T* statistics_;      // [threads][3][chunk]
  T *at_target_, *normalisers_, *scales_, *shifts_;  // [chunk]
  double* losses_;                                   // [chunk]
};

}  // namespace

void linear_cross_entropy_float32(const LinearCrossEntropy& arguments) {
  LinearCrossEntropyPass<float>(arguments).run();
}

void linear_cross_entropy_float64(const LinearCrossEntropy& arguments) {
  LinearCrossEntropyPass<double>(arguments).run();
}

}  // namespace wordkiln::cpu::WORDKILN_ISA
