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
    const int64_t last = part.blocks.end * Products::kUnits;
    const Range units = {part.blocks.begin * Products::kUnits, last < hidden_ ? last : hidden_};
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      const ForwardRow<Stored> at = row_at(t, row);
      if (t >= row_length(a_.lengths, row, a_.sizes.steps)) {
        stay(at, units);
        continue;
      }
      const auto state = products_.state_of(t, row);
      Cell::finish(at, units, [at, state](int64_t unit, int n, Vec<T> h) __attribute__((always_inline)) {
        store(at.out + unit, h, n);
        state.put(unit, n, h);
      });
    }
  }

  // A row behind its length: outputs 0, the state stays.
  static void stay(const ForwardRow<Stored>& row, Range units) {
    for_vectors<T>(units.begin, units.end, [&](int64_t unit, int n) {
      store(row.out + unit, Vec<T>{}, n);
      if (Cell::kHasHiddenNew && row.keep) store(row.hidden_new + unit, Vec<T>{}, n);
      if constexpr (Cell::kHasCells) store(row.cells + unit, load(row.c_before + unit, n), n);
    });
  }

  ForwardRow<Stored> row_at(int64_t t, int64_t row) const {
    const int64_t all = a_.sizes.batch * hidden_, state = row * hidden_, here = t * all + state;
    const T* c_before = t == 0 ? c0_ : shifted(cells_, a_.keep ? (t - 1) * all : 0);
    return {
        .gates = gates_ + here * kGates,
        .bias_ih = static_cast<const Stored*>(a_.bias_ih),
        .bias_hh = static_cast<const Stored*>(a_.bias_hh),
        .products = products_.at(row),
        .h_before = products_.h_before(t, row),
        .c_before = shifted(c_before, state),
        .out = out_ + here,
        .cells = shifted(cells_, a_.keep ? here : state),
        .hidden_new = shifted(static_cast<Stored*>(a_.hidden_new), here),
        .hidden = hidden_,
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
