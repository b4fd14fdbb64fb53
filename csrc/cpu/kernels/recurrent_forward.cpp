// weight_hh is packed once a call as [block of kLanes units][part][H][gates of the part][kLanes]. Each step is two
// passes: the product W_hh h of all blocks to a scratch that stays in the second cache, then row by row the
// nonlinearities. (As the epilogue of each block's product they would touch a line of every row and gate for each
// block, which no prefetcher follows: most of that pass was waiting.)
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/recurrent.h"
#include "cpu/kernels/recurrent_cells.h"
#include "cpu/kernels/recurrent_product.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename T, typename Cell>
class ForwardPass {
 public:
  explicit ForwardPass(const RecurrentForward& a)
      : a_(a),
        gates_(static_cast<T*>(a.gates)),
        h0_(static_cast<const T*>(a.h0)),
        c0_(static_cast<const T*>(a.c0)),
        out_(static_cast<T*>(a.out)),
        cells_(static_cast<T*>(a.cells)),
        hidden_(a.sizes.hidden),
        blocks_((a.sizes.hidden + kLanes<T> - 1) / kLanes<T>) {}

  void run() {
    const Workspace workspace(blocks_ * (block_size() + a_.sizes.batch * kWidth) * sizeof(T));
    packed_ = static_cast<T*>(workspace.data());
    products_ = packed_ + blocks_ * block_size();
    parallel_threads(recurrent_threads(kGates, a_.sizes.batch, hidden_), [this](int thread, int threads) {
      const Range mine = split(blocks_, thread, threads);
      for (int64_t block = mine.begin; block < mine.end; ++block) pack(block);
      barrier();
      const RecurrentPart part = recurrent_part(a_.sizes.batch, blocks_, weight_bytes(), thread, threads);
      for (int64_t t = 0; t < a_.sizes.steps; ++t) {
        for (int64_t block = part.blocks.begin; block < part.blocks.end; ++block) multiply(t, block, part);
        finish(t, part);
        if (part.shares_rows) meeting_.wait(threads);
      }
    });
  }

 private:
  static constexpr int kGates = Cell::kGates, kVectors = Cell::kVectors, kParts = kGates / kVectors;
  static constexpr int64_t kWidth = kGates * kLanes<T>;

  int64_t weight_bytes() const { return blocks_ * block_size() * static_cast<int64_t>(sizeof(T)); }

  int64_t block_size() const { return hidden_ * kWidth; }

  void pack(int64_t block) {
    const int64_t unit = block * kLanes<T>;
    const T* weight = static_cast<const T*>(a_.weight_hh);
    for (int g = 0; g < kGates; ++g) {
      T* to = packed_ + block * block_size() + g / kVectors * (hidden_ * kVectors * kLanes<T>);
      transpose(weight + (g * hidden_ + unit) * hidden_, hidden_, hidden_ - unit, hidden_,
                to + g % kVectors * kLanes<T>, kVectors * kLanes<T>);
    }
  }

  void multiply(int64_t t, int64_t block, const RecurrentPart& part) {
    const Range rows = part.rows;
    const T* previous = (t == 0 ? h0_ : out_ + (t - 1) * a_.sizes.batch * hidden_) + rows.begin * hidden_;
    const T* weights = packed_ + block * block_size();
    T* to = product_at(rows.begin, block);
    for (int i = 0; i < kParts; ++i, weights += block_size() / kParts, to += kVectors * kLanes<T>) {
      add_product<T, kVectors>(rows.end - rows.begin, hidden_, previous, hidden_, weights, to, blocks_ * kWidth, false,
                               part.is_far);
    }
  }

  void finish(int64_t t, const RecurrentPart& part) {
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      const bool goes_on = t < row_length(a_.lengths, row, a_.sizes.steps);
      for (int64_t block = part.blocks.begin; block < part.blocks.end; ++block) {
        if (goes_on) {
          Cell::finish(row_at(t, block, row), product_at(row, block));
        } else {
          stay(row_at(t, block, row));
        }
      }
    }
  }

  T* product_at(int64_t row, int64_t block) const { return products_ + (row * blocks_ + block) * kWidth; }

  // A row behind its length: outputs 0, the state stays.
  static void stay(const ForwardRow<T>& row) {
    store(row.out, Vec<T>{}, row.units);
    if (Cell::kHasHiddenNew && row.keep) store(row.hidden_new, Vec<T>{}, row.units);
    if constexpr (Cell::kHasCells) store(row.cells, load(row.c_before, row.units), row.units);
  }

  ForwardRow<T> row_at(int64_t t, int64_t block, int64_t row) const {
    const int64_t unit = block * kLanes<T>, left = hidden_ - unit, all = a_.sizes.batch * hidden_;
    const int64_t state = row * hidden_ + unit, here = t * all + state;
    const T* c_before = t == 0 ? c0_ : shifted(cells_, a_.keep ? (t - 1) * all : 0);
    return {
        .gates = gates_ + (t * a_.sizes.batch + row) * kGates * hidden_ + unit,
        .bias_hh = shifted(static_cast<const T*>(a_.bias_hh), unit),
        .h_before = t == 0 ? h0_ + state : out_ + here - all,
        .c_before = shifted(c_before, state),
        .out = out_ + here,
        .cells = shifted(cells_, a_.keep ? here : state),
        .hidden_new = shifted(static_cast<T*>(a_.hidden_new), here),
        .hidden = hidden_,
        .units = left < kLanes<T> ? static_cast<int>(left) : kLanes<T>,
        .keep = a_.keep,
    };
  }

  const RecurrentForward& a_;
  T* gates_;
  const T* h0_;
  const T* c0_;
  T* out_;
  T* cells_;
  int64_t hidden_, blocks_;
  SpinBarrier meeting_;
  T* packed_ = nullptr;
  T* products_ = nullptr;  // [B, blocks, G, kLanes]
};

template <typename T>
void run(const RecurrentForward& a) {
  switch (a.kind) {
    case Recurrence::kLstm:
      return ForwardPass<T, LstmCell<T>>(a).run();
    case Recurrence::kGru:
      return ForwardPass<T, GruCell<T>>(a).run();
    case Recurrence::kTanh:
      return ForwardPass<T, PlainCell<T, false>>(a).run();
    case Recurrence::kRelu:
      return ForwardPass<T, PlainCell<T, true>>(a).run();
  }
}

}  // namespace

void recurrent_forward_float32(const RecurrentForward& arguments) { run<float>(arguments); }

void recurrent_forward_float64(const RecurrentForward& arguments) { run<double>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
