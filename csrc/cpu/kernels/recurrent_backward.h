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
    const int64_t sums = a_.grad_bias == nullptr ? 0 : 2 * most * bias_width();
    const Workspace workspace(products_.bytes() + sums * static_cast<int64_t>(sizeof(T)));
    products_.take(static_cast<char*>(workspace.data()));
    if (sums > 0) sums_ = reinterpret_cast<T*>(static_cast<char*>(workspace.data()) + products_.bytes());
    for (int64_t i = 0; i < sums; ++i) sums_[i] = 0;
    parallel_threads(most, [this](int thread, int threads) {
      const Range mine = split(products_.blocks(), thread, threads);
      for (int64_t block = mine.begin; block < mine.end; ++block) products_.pack(block);
      barrier();
      const RecurrentPart part = products_.part(thread, threads);
      for (int64_t t = a_.sizes.steps - 1; t >= 0; --t) {
        gate_gradients(t, part, shifted(sums_, 2 * thread * bias_width()));
        if (part.shares_rows) meeting_.wait(threads);
        products_.multiply(t, part);
      }
      store_carried(part);
    });
    if (sums_ != nullptr) store_sums(most);
  }

 private:
  static constexpr int kGates = Cell::kGates, kGrads = Cell::kGrads;

  int64_t sum_width() const { return (hidden_ + kLanes<T> - 1) / kLanes<T> * kLanes<T>; }

  int64_t bias_width() const { return kGrads * sum_width(); }

  Range units_of(const RecurrentPart& part) const {
    const int64_t end = part.blocks.end * Products::kUnits;
    return {part.blocks.begin * Products::kUnits, end < hidden_ ? end : hidden_};
  }

  // sums: this thread's sums over its rows, [2, kGrads, sum_width()]: of this step, and of the steps before. One sum over
  // all rows of all steps would lose the small ones.
  void gate_gradients(int64_t t, const RecurrentPart& part, T* sums) {
    const Range units = units_of(part);
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      const int64_t length = row_length(a_.lengths, row, a_.sizes.steps);
      for (int64_t unit = units.begin; unit < units.end; unit += kLanes<T>) {
        const int64_t left = units.end - unit;
        const BackwardRow<Stored> at = row_at(t, row, unit, left < kLanes<T> ? static_cast<int>(left) : kLanes<T>);
        Vec<T> grads[kGrads] = {};  // as they are behind the row's length
        if (t < length) {
          Vec<T> grad_h = t + 1 == length ? load(grad_h_ + row * hidden_ + unit, at.units) : load(at.carried);
          if (grad_out_ != nullptr) {
            grad_h += load(grad_out_ + (t * a_.sizes.batch + row) * hidden_ + unit, at.units);
          }
          store(at.carried, Cell::backward(at, grad_h, grads));
        }
        store_gradients(at, grads);
        products_.put(t, row, unit, grads);
        if (sums != nullptr) add(grads, sums + unit);
      }
    }
    for (int64_t i = 0; sums != nullptr && i < bias_width(); i += kLanes<T>) {
      T* step = sums + i;
      store(step + bias_width(), load(step + bias_width()) + load(step));
      store(step, Vec<T>{});
    }
  }

  void add(const Vec<T> (&grads)[kGrads], T* sums) const {
    WORDKILN_UNROLL
    for (int g = 0; g < kGrads; ++g) store(sums + g * sum_width(), load(sums + g * sum_width()) + grads[g]);
  }

  void store_sums(int threads) const {
    T* to = static_cast<T*>(a_.grad_bias);
    for (int64_t g = 0; g < kGrads; ++g) {
      for_vectors<T>(0, hidden_, [&](int64_t unit, int units) {
        Vec<T> total = {};
        for (int64_t part = 0; part < threads; ++part) {
          total += load(sums_ + (2 * part + 1) * bias_width() + g * sum_width() + unit);
        }
        store(to + g * hidden_ + unit, total, units);
      });
    }
  }

  static void store_gradients(const BackwardRow<Stored>& row, const Vec<T> (&grads)[kGrads]) {
    WORDKILN_UNROLL
    for (int g = 0; g < kGates; ++g) store(row.grad_gates + g * row.hidden, grads[g], row.units);
    if constexpr (Cell::kHasHiddenNew) store(row.grad_hidden_new, grads[kGates], row.units);
  }

  BackwardRow<Stored> row_at(int64_t t, int64_t row, int64_t unit, int units) const {
    const int64_t all = a_.sizes.batch * hidden_, state = row * hidden_ + unit, here = t * all + state;
    const int64_t gates = (t * a_.sizes.batch + row) * kGates * hidden_ + unit;
    const Stored* out = static_cast<const Stored*>(a_.out);
    const T* cells = static_cast<const T*>(a_.cells);
    return {
        .gates = shifted(static_cast<const Stored*>(a_.activations), gates),
        .grad_gates = grad_gates_ + gates,
        .hidden_new = shifted(static_cast<const Stored*>(a_.hidden_new), here),
        .grad_hidden_new = shifted(grad_hidden_new_, here),
        .h_before = t == 0 ? shifted(static_cast<const Stored*>(a_.h0), state) : shifted(out, here - all),
        .c_before = t == 0 ? shifted(static_cast<const T*>(a_.c0), state) : shifted(cells, here - all),
        .out = shifted(out, here),
        .cells = shifted(cells, here),
        .carried = products_.carried(row, unit),
        .grad_c = shifted(static_cast<T*>(a_.grad_c), state),
        .hidden = hidden_,
        .units = units,
    };
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
  T* sums_ = nullptr;  // [threads, 2, kGrads, sum_width()]
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
