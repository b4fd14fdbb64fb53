// Back through time: per step the gradient of the pre-activations, element by element, then grad_h = grad_gates W_hh.
#pragma once

#include "cpu/kernels/parallel.h"
#include "cpu/kernels/recurrent.h"
#include "cpu/kernels/recurrent_cells.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// Products: how the gradients are multiplied with W_hh, for blocks of kUnits hidden units, in what order it reads them,
// and where it sums the gradient of h that the later step hands to this one.
template <typename Cell, typename Products>
class BackwardPass {
 public:
  typedef typename Products::Stored Stored;
  typedef Computed<Stored> T;

  explicit BackwardPass(const RecurrentBackward& a)
      : a_(a),
        grad_gates_(static_cast<Stored*>(a.grad_gates)),
        grad_hidden_new_(static_cast<Stored*>(a.grad_hidden_new)),
        grad_out_(static_cast<const Stored*>(a.grad_out)),
        grad_h_(static_cast<T*>(a.grad_h)),
        hidden_(a.sizes.hidden),
        products_(a) {}

  void run() {
    const int most = recurrent_threads(kGates, a_.sizes.batch, hidden_);
    const int64_t scratch = most * scratch_width();
    const Workspace workspace(products_.bytes() + scratch * static_cast<int64_t>(sizeof(T)));
    products_.take(static_cast<char*>(workspace.data()));
    scratch_ = reinterpret_cast<T*>(static_cast<char*>(workspace.data()) + products_.bytes());
    for (int64_t i = 0; i < scratch; ++i) scratch_[i] = 0;
    parallel_threads(most, [this](int thread, int threads) {
      const Range mine = split(products_.blocks(), thread, threads);
      for (int64_t block = mine.begin; block < mine.end; ++block) products_.pack(block);
      barrier();
      const RecurrentPart part = products_.part(thread, threads);
      for (int64_t t = a_.sizes.steps - 1; t >= 0; --t) {
        gate_gradients(t, part, scratch_of(thread));
        if (part.shares_rows) meeting_.wait(threads);
        products_.multiply(t, part);
      }
      store_carried(part);
    });
    if (a_.grad_bias != nullptr) store_sums(most);
  }

 private:
  static constexpr int kGates = Cell::kGates, kGrads = Cell::kGrads;
  static constexpr bool kNarrow = sizeof(Stored) < sizeof(T);

  int64_t sum_width() const { return (hidden_ + kLanes<T> - 1) / kLanes<T> * kLanes<T>; }

  // A thread's: a row's gates, then two sums of gradients.
  int64_t scratch_width() const { return (kGates + 2 * kGrads) * sum_width(); }

  T* scratch_of(int thread) const { return scratch_ + thread * scratch_width(); }

  Range units_of(const RecurrentPart& part) const {
    const int64_t end = part.blocks.end * Products::kUnits;
    return {part.blocks.begin * Products::kUnits, end < hidden_ ? end : hidden_};
  }

  // scratch: this thread's, of `scratch_width()`.
  void gate_gradients(int64_t t, const RecurrentPart& part, T* scratch) {
    const Range units = units_of(part);
    T* sums = a_.grad_bias == nullptr ? nullptr : scratch + kGates * sum_width();
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      const int64_t length = row_length(a_.lengths, row, a_.sizes.steps), here = t * a_.sizes.batch + row;
      const BackwardRow<Stored> at = row_at(t, row, units, scratch);
      const auto gradients = products_.gradients_of(t, row);
      const Stored* grad_out = shifted(grad_out_, here * hidden_);
      const T* last = t + 1 == length ? grad_h_ + row * hidden_ : nullptr;
      T* carried = products_.carried(row, 0);
      Stored *grad_gates = grad_gates_ + here * kGates * hidden_,
             *grad_hidden_new = shifted(grad_hidden_new_, here * hidden_);
      const int64_t hidden = hidden_;
      const auto each = [=](int64_t unit, int n) __attribute__((always_inline)) {
        Vec<T> grads[kGrads] = {};  // as they are behind the row's length
        if (t < length) {
          Vec<T> grad_h = last != nullptr ? load(last + unit, n) : load(carried + unit);
          if (grad_out != nullptr) grad_h += load(grad_out + unit, n);
          store(carried + unit, Cell::backward(at, unit, n, grad_h, grads));
        }
        WORDKILN_UNROLL
        for (int g = 0; g < kGates; ++g) store(grad_gates + g * hidden + unit, grads[g], n);
        if constexpr (Cell::kHasHiddenNew) store(grad_hidden_new + unit, grads[kGates], n);
        gradients.put(unit, grads);
        WORDKILN_UNROLL
        for (int g = 0; g < kGrads && sums != nullptr; ++g) {
          T* sum = sums + unit * kGrads + g * kLanes<T>;
          store(sum, load(sum) + grads[g]);
        }
      };
      for_vectors<T>(units.begin, units.end, each);
    }
    if (sums != nullptr) finish_step(sums);
  }

  // sums: over a thread's rows, [2][vector of units][kGrads][kLanes]: of this step, and of the steps before. One sum
  // over all rows of all steps would lose small gradients. Not a row for each gate: at 4 KB from the gradients' own
  // rows a load would wait for their stores.
  void finish_step(T* sums) const {
    const int64_t all = kGrads * sum_width();
    for (int64_t i = 0; i < all; i += kLanes<T>) {
      store(sums + all + i, load(sums + all + i) + load(sums + i));
      store(sums + i, Vec<T>{});
    }
  }

  void store_sums(int threads) const {
    T* to = static_cast<T*>(a_.grad_bias);
    for (int64_t g = 0; g < kGrads; ++g) {
      for_vectors<T>(0, hidden_, [&](int64_t unit, int n) {
        Vec<T> total = {};
        for (int thread = 0; thread < threads; ++thread) {
          total += load(scratch_of(thread) + (kGates + kGrads) * sum_width() + unit * kGrads + g * kLanes<T>);
        }
        store(to + g * hidden_ + unit, total, n);
      });
    }
  }

  BackwardRow<Stored> row_at(int64_t t, int64_t row, Range units, T* scratch) const {
    const int64_t all = a_.sizes.batch * hidden_, state = row * hidden_, here = t * all + state;
    const Stored* out = static_cast<const Stored*>(a_.out);
    const T* cells = static_cast<const T*>(a_.cells);
    return {
        .gates = gates_of(here * kGates, units, scratch),
        .hidden_new = shifted(static_cast<const Stored*>(a_.hidden_new), here),
        .h_before = t == 0 ? shifted(static_cast<const Stored*>(a_.h0), state) : shifted(out, here - all),
        .c_before = t == 0 ? shifted(static_cast<const T*>(a_.c0), state) : shifted(cells, here - all),
        .out = shifted(out, here),
        .cells = shifted(cells, here),
        .grad_c = shifted(static_cast<T*>(a_.grad_c), state),
        .hidden = hidden_,
    };
  }

  // The gates as the cell reads them; what bfloat16 kept goes through their functions again.
  const T* gates_of(int64_t offset, Range units, T* scratch) const {
    const Stored* kept = shifted(static_cast<const Stored*>(a_.activations), offset);
    if constexpr (kNarrow && kGates > 1) {
      for (int64_t g = 0; g < kGates; ++g) {
        for_vectors<T>(units.begin, units.end, [&](int64_t unit, int n) __attribute__((always_inline)) {
          store(scratch + g * hidden_ + unit, Cell::activate(g, load(kept + g * hidden_ + unit, n)), n);
        });
      }
      return scratch;
    } else if constexpr (kNarrow) {
      return nullptr;
    } else {
      return kept;
    }
  }

  // A row of no steps has its last state's gradient for the first's.
  void store_carried(const RecurrentPart& part) {
    const Range units = units_of(part);
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      if (row_length(a_.lengths, row, a_.sizes.steps) == 0) continue;
      for (int64_t j = units.begin; j < units.end; ++j) grad_h_[row * hidden_ + j] = *products_.carried(row, j);
    }
  }

  const RecurrentBackward& a_;
  Stored* grad_gates_;
  Stored* grad_hidden_new_;
  const Stored* grad_out_;
  T* grad_h_;
  int64_t hidden_;
  Products products_;
  T* scratch_ = nullptr;
  SpinBarrier meeting_;
};

// Products: a template of the cell.
template <template <typename> class Products, typename Stored>
void run_backward(const RecurrentBackward& a) {
  switch (a.kind) {
    case Recurrence::kLstm:
      return BackwardPass<LstmCell<Stored>, Products<LstmCell<Stored>>>(a).run();
    case Recurrence::kGru:
      return BackwardPass<GruCell<Stored>, Products<GruCell<Stored>>>(a).run();
    case Recurrence::kTanh:
      return BackwardPass<PlainCell<Stored, false>, Products<PlainCell<Stored, false>>>(a).run();
    case Recurrence::kRelu:
      return BackwardPass<PlainCell<Stored, true>, Products<PlainCell<Stored, true>>>(a).run();
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
