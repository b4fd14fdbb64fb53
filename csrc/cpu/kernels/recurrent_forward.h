// The forward pass of a recurrence. Each step is two passes: the product W_hh h of all units to a scratch that stays in
// the second cache, then row by row the nonlinearities. (As the epilogue of each block's product they would touch a
// line of every row and gate for each block, which no prefetcher follows: most of that pass was waiting.)
#pragma once

#include "cpu/kernels/parallel.h"
#include "cpu/kernels/recurrent.h"
#include "cpu/kernels/recurrent_cells.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// Products: how W_hh h is computed, in blocks of kUnits hidden units, and in what it reads the state.
template <typename Cell, typename Products>
class ForwardPass {
 public:
  typedef typename Products::Stored Stored;
  typedef Computed<Stored> T;

  explicit ForwardPass(const RecurrentForward& a)
      : a_(a),
        gates_(static_cast<Stored*>(a.gates)),
        c0_(static_cast<const T*>(a.c0)),
        out_(static_cast<Stored*>(a.out)),
        cells_(static_cast<T*>(a.cells)),
        hidden_(a.sizes.hidden),
        products_(a) {}

  void run() {
    const Workspace workspace(products_.bytes());
    products_.take(static_cast<char*>(workspace.data()));
    parallel_threads(recurrent_threads(kGates, a_.sizes.batch, hidden_), [this](int thread, int threads) {
      const Range mine = split(products_.blocks(), thread, threads);
      for (int64_t block = mine.begin; block < mine.end; ++block) products_.pack(block);
      barrier();
      const RecurrentPart part = products_.part(thread, threads);
      for (int64_t t = 0; t < a_.sizes.steps; ++t) {
        products_.multiply(t, part);
        finish(t, part);
        if (part.shares_rows) meeting_.wait(threads);
      }
    });
  }

 private:
  static constexpr int kGates = Cell::kGates;

  void finish(int64_t t, const RecurrentPart& part) {
    const int64_t begin = part.blocks.begin * Products::kUnits, last = part.blocks.end * Products::kUnits;
    const int64_t end = last < hidden_ ? last : hidden_;
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      const bool goes_on = t < row_length(a_.lengths, row, a_.sizes.steps);
      for (int64_t unit = begin; unit < end; unit += kLanes<T>) {
        const ForwardRow<Stored> at = row_at(t, unit, row);
        if (goes_on) {
          const Vec<T> h = Cell::finish(at, products_.at(row, unit / kLanes<T>));
          store(at.out, h, at.units);
          products_.put(t, row, unit, h, at.units);
        } else {
          stay(at);
        }
      }
    }
  }

  // A row behind its length: outputs 0, the state stays.
  static void stay(const ForwardRow<Stored>& row) {
    store(row.out, Vec<T>{}, row.units);
    if (Cell::kHasHiddenNew && row.keep) store(row.hidden_new, Vec<T>{}, row.units);
    if constexpr (Cell::kHasCells) store(row.cells, load(row.c_before, row.units), row.units);
  }

  ForwardRow<Stored> row_at(int64_t t, int64_t unit, int64_t row) const {
    const int64_t left = hidden_ - unit, all = a_.sizes.batch * hidden_;
    const int64_t state = row * hidden_ + unit, here = t * all + state;
    const T* c_before = t == 0 ? c0_ : shifted(cells_, a_.keep ? (t - 1) * all : 0);
    return {
        .gates = gates_ + (t * a_.sizes.batch + row) * kGates * hidden_ + unit,
        .bias = shifted(static_cast<const Stored*>(a_.bias), unit),
        .bias_hh = shifted(static_cast<const Stored*>(a_.bias_hh), unit),
        .h_before = products_.h_before(t, row, unit),
        .c_before = shifted(c_before, state),
        .out = out_ + here,
        .cells = shifted(cells_, a_.keep ? here : state),
        .hidden_new = shifted(static_cast<Stored*>(a_.hidden_new), here),
        .hidden = hidden_,
        .units = left < kLanes<T> ? static_cast<int>(left) : kLanes<T>,
        .keep = a_.keep,
    };
  }

  const RecurrentForward& a_;
  Stored* gates_;
  const T* c0_;
  Stored* out_;
  T* cells_;
  int64_t hidden_;
  Products products_;
  SpinBarrier meeting_;
};

// Products: a template of the cell.
template <template <typename> class Products, typename Stored>
void run_forward(const RecurrentForward& a) {
  switch (a.kind) {
    case Recurrence::kLstm:
      return ForwardPass<LstmCell<Stored>, Products<LstmCell<Stored>>>(a).run();
    case Recurrence::kGru:
      return ForwardPass<GruCell<Stored>, Products<GruCell<Stored>>>(a).run();
    case Recurrence::kTanh:
      return ForwardPass<PlainCell<Stored, false>, Products<PlainCell<Stored, false>>>(a).run();
    case Recurrence::kRelu:
      return ForwardPass<PlainCell<Stored, true>, Products<PlainCell<Stored, true>>>(a).run();
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
