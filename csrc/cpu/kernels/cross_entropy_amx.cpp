// The vocabulary loss in bfloat16 on the tile unit (docs/loss.md). Products are cheap there and memory is not: logits
// are made twice, once for the normalisers and once for the gradients, and never kept.
//
// Tokens that count are shared out among the threads, which go through the vocabulary together, block by block: each
// packs a share of the block's weights. In the second pass a thread adds to the hidden gradients of its own tokens, and
// its part of the block's weight gradients is summed with the others' in the order of the threads.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/parallel.h"
#include "cpu/kernels/softmax.h"
#include "cpu/kernels/tiles.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kWords = 256;                    // of a block
constexpr int64_t kScoreRow = kWords + kTileSide;  // no power of two: rows would share a few sets of the cache
constexpr int64_t kGroup = 256;                    // tokens between two additions to the weight gradients
constexpr int64_t kRows = kTileInputs;             // tokens whose logits are held
constexpr int kTogether = 8;                       // rows that go through the softmax at a time

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What is known of a token that counts.
struct Token {
  int64_t row, target;
  double loss;
  float at_target, sum;      // logits: at the target, over all words
  float base, scale, shift;  // exp2(log2(e) logit - base) * scale - shift is the gradient, but for the target
};

// One thread's scratch.
struct LossScratch {
  float* scores;         // [kRows][kScoreRow] logits
  Bfloat16* hidden;      // [kRows][padded]
  Bfloat16* grad_rows;   // [kRows][kWords]
  Bfloat16* grad_pairs;  // right tiles [kGroup / 32][kWords / 16]
  float* grad_weight;    // [padded / 16][kWords / 16] squares of elements by words
  float* grad_bias;      // [kWords]
};

class LinearCrossEntropyTiles {
 public:
  explicit LinearCrossEntropyTiles(const LinearCrossEntropy& a)
      : a_(a),
        hidden_(static_cast<const Bfloat16*>(a.hidden)),
        weight_(static_cast<const Bfloat16*>(a.weight)),
        bias_(static_cast<const Bfloat16*>(a.bias)),
        vocabulary_(a.sizes.vocabulary),
        width_(a.sizes.width),
        padded_(divide_up(a.sizes.width, kTileInputs) * kTileInputs),
        gradients_(a.grad_hidden != nullptr || a.grad_weight != nullptr || a.grad_bias != nullptr) {}

  void run() {
    for (int64_t i = 0; i < a_.sizes.rows; ++i) count_ += a_.targets[i] != a_.ignore_index;
    scale_ = a_.mean ? 1.0 / static_cast<double>(count_) : 1.0;
    clear();
    const int64_t tiles = divide_up(count_, kRows);
    const double work = static_cast<double>(count_) * static_cast<double>(vocabulary_ * (width_ / 4 + 8));
    threads_ = static_cast<int>(smaller(threads_for(work), tiles == 0 ? 1 : tiles));
    const Workspace workspace(lay_out(nullptr));
    lay_out(static_cast<char*>(workspace.data()));
    choose_tokens();
    if (count_ > 0) run_threads();
    double total = 0;
    for (int64_t i = 0; i < count_; ++i) total += tokens_[i].loss;
    *a_.loss = total * scale_;
  }

 private:
  void run_threads() {
    parallel_threads(threads_, [this](int thread, int threads) {
      const TileShape shape;
      const Range own = split(divide_up(count_, kRows), thread, threads);
      const Range tokens = {own.begin * kRows, smaller(own.end * kRows, count_)};
      sum_up(thread, threads, tokens);
      for (int64_t i = tokens.begin; i < tokens.end; ++i) finish(i);
      if (gradients_) add_gradients(thread, threads, tokens);
    });
  }

  // Gradients of rows that do not count, and of the weights where none does.
  void clear() const {
    if (count_ == 0 && a_.grad_weight) __builtin_memset(a_.grad_weight, 0, vocabulary_ * width_ * 2);
    if (count_ == 0 && a_.grad_bias) __builtin_memset(a_.grad_bias, 0, vocabulary_ * 2);
    if (a_.grad_hidden == nullptr || count_ == a_.sizes.rows) return;
    for (int64_t i = 0; i < a_.sizes.rows; ++i) {
      if (a_.targets[i] == a_.ignore_index) __builtin_memset(grad_hidden(i), 0, width_ * 2);
    }
  }

  // Gives every array its place behind `memory`; returns their size in bytes.
  size_t lay_out(char* memory) {
    size_t used = 0;
    const auto take = [&]<typename X>(X*& array, int64_t count) {
      array = reinterpret_cast<X*>(memory + used);
      used += (count * sizeof(X) + 127) / 128 * 128;
    };
    const int64_t tokens = divide_up(count_, kRows) * kRows, all = gradients_ ? tokens : 0;
    take(tokens_, tokens);
    take(sums_, tokens);
    take(hidden_transposed_, a_.grad_weight ? all * padded_ : 0);
    take(grad_hidden_, a_.grad_hidden ? all * padded_ : 0);
    for (int buffer = 0; buffer < 2; ++buffer) {
      take(columns_[buffer], kWords * padded_);
      take(inputs_[buffer], a_.grad_hidden ? kWords * padded_ : 0);
    }
    const size_t before = used;
    take(first_scratch_.scores, kRows * kScoreRow);
    take(first_scratch_.hidden, kRows * padded_);
    take(first_scratch_.grad_rows, kRows * kWords);
    take(first_scratch_.grad_pairs, gradients_ ? kGroup * kWords : 0);
    take(first_scratch_.grad_weight, a_.grad_weight ? kWords * padded_ : 0);
    take(first_scratch_.grad_bias, kWords);
    scratch_bytes_ = static_cast<int64_t>(used - before);
    return used + (threads_ - 1) * scratch_bytes_;
  }

  LossScratch scratch(int thread) const {
    LossScratch s = first_scratch_;
    const auto move = [&]<typename X>(X*& array) {
      array = reinterpret_cast<X*>(reinterpret_cast<char*>(array) + thread * scratch_bytes_);
    };
    move(s.scores), move(s.hidden), move(s.grad_rows), move(s.grad_pairs), move(s.grad_weight), move(s.grad_bias);
    return s;
  }

  void choose_tokens() const {
    int64_t next = 0;
    for (int64_t i = 0; i < a_.sizes.rows; ++i) {
      if (a_.targets[i] == a_.ignore_index) continue;
      tokens_[next] = {i, a_.targets[i], 0, 0, 0, 0, 0, 0};
      sums_[next++] = SoftmaxSums<float>();
    }
  }

  int64_t words(int64_t block) const { return smaller(vocabulary_ - block * kWords, kWords); }

  int64_t blocks() const { return divide_up(vocabulary_, kWords); }

  // This thread's share of a block of weights. Two buffers take turns: nobody waits for the last block's readers.
  void pack(int64_t block, Range tiles, bool inputs) const {
    const int64_t first = tiles.begin * kTileInputs, end = smaller(tiles.end * kTileInputs, words(block));
    if (first >= end) return;
    const HalfRows rows = {weight_ + (block * kWords + first) * width_, width_, end - first, width_};
    pack_columns(rows, padded_, columns_[block % 2] + first * padded_);
    if (inputs) pack_inputs(rows, padded_, inputs_[block % 2] + first * padded_);
  }

  // Up to kRows tokens from `first` on, zeros behind the last.
  void gather(int64_t first, int64_t count, Bfloat16* to) const {
    for (int64_t i = 0; i < kRows; ++i, to += padded_) {
      const Bfloat16* from = hidden_ + (i < count ? tokens_[first + i].row * width_ : 0);
      for (int64_t e = 0; e < padded_; e += kTileInputs)
        store_halves(to + e, load_halves(from + e, i < count ? width_ - e : 0));
    }
  }

  // Logits of some tokens and the words of a block; -inf behind the last word.
  void make_logits(int64_t first, int64_t count, int64_t block, const LossScratch& s) const {
    gather(first, count, s.hidden);
    const int64_t depth = padded_ / kTileInputs, wide = words(block), tiled = divide_up(wide, kTileInputs) * 2;
    multiply_tiles(2, tiled, depth, left_rows(s.hidden, padded_ * 2), whole_tiles(columns_[block % 2], 1, depth),
                   sums_of_rows(s.scores, kScoreRow), false);
    for (int64_t j = 0; bias_ != nullptr && j < wide; j += kTileSide) {
      const Vec<float> bias = load(bias_ + block * kWords + j, static_cast<int>(smaller(wide - j, kTileSide)));
      for (int64_t i = 0; i < kRows; ++i)
        store(s.scores + i * kScoreRow + j, load(s.scores + i * kScoreRow + j) + bias);
    }
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = wide; j < tiled * kTileSide; ++j) s.scores[i * kScoreRow + j] = -kInfinity<float>;
    }
  }

  // The first pass: what the softmax of each token sums up.
  void sum_up(int thread, int threads, Range tokens) const {
    const LossScratch s = scratch(thread);
    for (int64_t block = 0; block < blocks(); ++block) {
      pack(block, split(kWords / kTileInputs, thread, threads), false);
      barrier();
      for (int64_t first = tokens.begin; first < tokens.end; first += kRows) {
        const int64_t count = smaller(kRows, tokens.end - first);
        make_logits(first, count, block, s);
        for (int64_t i = 0; i < count; ++i) read_row(first + i, block, s.scores + i * kScoreRow);
        for (int64_t i = 0; i < count; i += kTogether)
          add_rows(s.scores + i * kScoreRow, words(block), sums_ + first + i);
      }
    }
    barrier();
  }

  void read_row(int64_t token, int64_t block, const float* logits) const {
    Token& t = tokens_[token];
    const int64_t target = t.target - block * kWords;
    if (target >= 0 && target < words(block)) t.at_target = logits[target];
    if (a_.label_smoothing == 0) return;
    Vec<float> total = {};
    for_vectors<float>(0, words(block), [&](int64_t j, int n) { total += load(logits + j, n); });
    t.sum += sum<float>(total);
  }

  static void add_rows(const float* logits, int64_t wide, SoftmaxSums<float>* sums) {
    const int64_t columns = divide_up(wide, kTileInputs) * kTileInputs;
    constexpr float kFactor = static_cast<float>(kLog2E);
    float unused[kTogether], base[kTogether];
    add_largest(logits, kScoreRow, columns, kFactor, sums, unused);
    Vec<float> totals[kTogether] = {};
    for (int i = 0; i < kTogether; ++i) base[i] = sums[i].largest == -kInfinity<float> ? 0.0f : sums[i].largest;
    for (int64_t j = 0; j < columns; j += kTileSide) {
      WORDKILN_UNROLL
      for (int i = 0; i < kTogether; ++i) totals[i] += quick_exp2(load(logits + i * kScoreRow + j) * kFactor - base[i]);
    }
    for (int i = 0; i < kTogether; ++i) sums[i].total += sum<float>(totals[i]);
  }

  // The loss of a token, and what its gradient needs.
  void finish(int64_t i) const {
    Token& t = tokens_[i];
    const double smoothing = a_.label_smoothing, words = static_cast<double>(vocabulary_);
    const double base = static_cast<double>(sums_[i].largest) + __builtin_log2(static_cast<double>(sums_[i].total));
    const double normaliser = kLn2 * base;
    t.loss = normaliser - (1 - smoothing) * static_cast<double>(t.at_target) + a_.z_loss * normaliser * normaliser;
    if (smoothing != 0) t.loss -= smoothing * static_cast<double>(t.sum) / words;
    t.base = static_cast<float>(base);
    t.scale = static_cast<float>(scale_ * (1 + 2 * a_.z_loss * normaliser));
    t.shift = static_cast<float>(scale_ * smoothing / words);
  }

  // The second pass: logits again, their gradients and the products with those.
  void add_gradients(int thread, int threads, Range tokens) const {
    const LossScratch s = scratch(thread);
    for (int64_t first = tokens.begin; first < tokens.end && a_.grad_weight; first += kRows) {
      gather(first, smaller(kRows, tokens.end - first), s.hidden);
      pack_transposed({s.hidden, padded_, kRows, padded_}, padded_, hidden_transposed_ + first * padded_);
    }
    for (int64_t block = 0; block < blocks(); ++block) {
      pack(block, split(kWords / kTileInputs, thread, threads), a_.grad_hidden != nullptr);
      barrier();
      __builtin_memset(s.grad_bias, 0, kWords * sizeof(float));
      for (int64_t first = tokens.begin; first < tokens.end; first += kGroup) {
        add_group({first, smaller(first + kGroup, tokens.end)}, block, first == tokens.begin, s);
      }
      barrier();
      const Range own = split(divide_up(words(block), kTileSide), thread, threads);
      for (int64_t tile = own.begin; tile < own.end; ++tile) write_words(block, tile, threads);
    }
    for (int64_t i = tokens.begin; i < tokens.end && a_.grad_hidden; ++i) {
      for_vectors<float>(0, width_, [&](int64_t e, int n) {
        store(grad_hidden(tokens_[i].row) + e, load(grad_hidden_ + i * padded_ + e, n), n);
      });
    }
  }

  void add_group(Range group, int64_t block, bool first_group, const LossScratch& s) const {
    const int64_t wide = divide_up(words(block), kTileInputs), tiles = padded_ / kTileSide;
    for (int64_t first = group.begin; first < group.end; first += kRows) {
      const int64_t count = smaller(kRows, group.end - first);
      make_logits(first, count, block, s);
      Bfloat16* pairs = s.grad_pairs + (first - group.begin) * kWords;
      make_gradients(first, count, wide * kTileInputs, pairs, s);
      subtract_targets(first, count, block, pairs, s);
      if (a_.grad_hidden == nullptr) continue;
      multiply_tiles(2, tiles, wide, left_rows(s.grad_rows, kWords * 2), whole_tiles(inputs_[block % 2], tiles, 1),
                     sums_of_rows(grad_hidden_ + first * padded_, padded_), block > 0);
    }
    if (a_.grad_weight == nullptr) return;
    constexpr int64_t kSquare = kTileSide * kTileSide * 4;
    multiply_tiles(tiles, 2 * wide, divide_up(group.end - group.begin, kRows),
                   whole_tiles(hidden_transposed_ + group.begin * padded_, tiles, 1),
                   whole_tiles(s.grad_pairs, kWords / kTileSide, 1),
                   {s.grad_weight, 64, kWords / kTileSide * kSquare, kSquare}, !first_group);
  }

  // Gradients of the logits as operands of both products. Rows without a token give 0.
  void make_gradients(int64_t first, int64_t count, int64_t columns, Bfloat16* pairs, const LossScratch& s) const {
    for (int64_t i = 0; i < kRows; i += 2) {
      const Token* token = tokens_ + first + i;
      for (int64_t j = 0; j < columns; j += kTileSide) {
        const float* logits = s.scores + i * kScoreRow + j;
        const Vec<float> low = i < count ? gradient(token[0], logits) : Vec<float>{};
        const Vec<float> high = i + 1 < count ? gradient(token[1], logits + kScoreRow) : Vec<float>{};
        if (a_.grad_bias) store(s.grad_bias + j, load(s.grad_bias + j) + (low + high));
        const Halves both = narrow_both(low, high);
        const HalfWords rows[2] = {half(both, 0), half(both, 1)};
        __builtin_memcpy(s.grad_rows + i * kWords + j, &rows[0], sizeof rows[0]);
        __builtin_memcpy(s.grad_rows + (i + 1) * kWords + j, &rows[1], sizeof rows[1]);
        store_halves(pairs + j * kTileInputs + i * kTileSide, interleave_halves(both));
      }
    }
  }

  static WORDKILN_INLINE Vec<float> gradient(const Token& t, const float* logits) {
    return quick_exp2(load(logits) * static_cast<float>(kLog2E) - t.base) * t.scale - t.shift;
  }

  void subtract_targets(int64_t first, int64_t count, int64_t block, Bfloat16* pairs, const LossScratch& s) const {
    const float share = static_cast<float>(scale_ * (1 - a_.label_smoothing));
    for (int64_t i = 0; i < count; ++i) {
      const Token& t = tokens_[first + i];
      const int64_t j = t.target - block * kWords;
      if (j < 0 || j >= words(block)) continue;
      const Vec<float> all = gradient(t, s.scores + i * kScoreRow + j / kTileSide * kTileSide);
      const Bfloat16 rounded = {narrow(broadcast(all[j % kTileSide] - share))[0]};
      s.grad_rows[i * kWords + j] = rounded;
      pairs[j / kTileSide * kTileElements + i / 2 * kTileInputs + j % kTileSide * 2 + i % 2] = rounded;
      s.grad_bias[j] -= share;
    }
  }

  // 16 words' gradients, of all threads.
  void write_words(int64_t block, int64_t tile, int threads) const {
    const int64_t word = block * kWords + tile * kTileSide;
    const int count = static_cast<int>(smaller(vocabulary_ - word, kTileSide));
    if (a_.grad_bias) {
      Vec<float> total = {};
      for (int t = 0; t < threads; ++t) total += load(scratch(t).grad_bias + tile * kTileSide);
      store(static_cast<Bfloat16*>(a_.grad_bias) + word, total, count);
    }
    for (int64_t e = 0; e < width_ && a_.grad_weight; e += kTileSide) {
      Vec<float> square[kTileSide] = {};
      for (int t = 0; t < threads; ++t) {
        const float* part = scratch(t).grad_weight + (e * kWords / kTileSide + tile * kTileSide) * kTileSide;
        for (int r = 0; r < kTileSide; ++r) square[r] += load(part + r * kTileSide);
      }
      transpose_registers<float>(square);
      Bfloat16* to = static_cast<Bfloat16*>(a_.grad_weight) + word * width_ + e;
      for (int i = 0; i < count; ++i)
        store(to + i * width_, square[i], static_cast<int>(smaller(width_ - e, kTileSide)));
    }
  }

  Bfloat16* grad_hidden(int64_t row) const { return static_cast<Bfloat16*>(a_.grad_hidden) + row * width_; }

  const LinearCrossEntropy& a_;
  const Bfloat16 *hidden_, *weight_, *bias_;
  int64_t vocabulary_, width_, padded_, count_ = 0;
  bool gradients_;
  int threads_ = 1;
  double scale_ = 1;  // of the sum of the losses
  Token* tokens_;     // that count
  SoftmaxSums<float>* sums_;
  Bfloat16* hidden_transposed_;  // left tiles [tokens / 32][padded / 16]
  float* grad_hidden_;           // [tokens][padded]
  Bfloat16* columns_[2];         // weights of a block: right tiles [kWords / 16][padded / 32]
  Bfloat16* inputs_[2];          // and [kWords / 32][padded / 16]
  LossScratch first_scratch_;
  int64_t scratch_bytes_ = 0;
};

}  // namespace

void linear_cross_entropy_tiles(const LinearCrossEntropy& arguments) { LinearCrossEntropyTiles(arguments).run(); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
