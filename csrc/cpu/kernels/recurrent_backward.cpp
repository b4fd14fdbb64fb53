// Back through time: per step the gradient of the pre-activations, element by element, then grad_h = grad_gates W_hh.
// weight_hh is packed once a call as [panel of columns][GH][columns of a tile].
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/recurrent.h"
#include "cpu/kernels/recurrent_cells.h"
#include "cpu/kernels/recurrent_product.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int kPanelVectors = 2;

template <typename T>
constexpr int64_t kPanel = kPanelVectors * kLanes<T>;

template <typename T, typename Cell>
class BackwardPass {
 public:
  explicit BackwardPass(const RecurrentBackward& a)
      : a_(a),
        grad_gates_(static_cast<T*>(a.grad_gates)),
        grad_hidden_new_(static_cast<T*>(a.grad_hidden_new)),
        grad_out_(static_cast<const T*>(a.grad_out)),
        grad_h_(static_cast<T*>(a.grad_h)),
        hidden_(a.sizes.hidden),
        panels_((a.sizes.hidden + kPanel<T> - 1) / kPanel<T>) {}

  void run() {
    const int64_t packed = width() * kGates * hidden_;
    const Workspace workspace((packed + a_.sizes.batch * width()) * sizeof(T));
    packed_ = static_cast<T*>(workspace.data());
    carried_ = packed_ + packed;
    parallel_threads(recurrent_threads(kGates, a_.sizes.batch, hidden_), [this](int thread, int threads) {
      const Range mine = split(panels_, thread, threads);
      for (int64_t panel = mine.begin; panel < mine.end; ++panel) pack(panel);
      barrier();
      const RecurrentPart part = recurrent_part(a_.sizes.batch, panels_, weight_bytes(), thread, threads);
      for (int64_t t = a_.sizes.steps - 1; t >= 0; --t) {
        gate_gradients(t, part);
        if (part.shares_rows) meeting_.wait(threads);
        carry(t, part);
      }
      store_carried(part);
    });
  }

 private:
  static constexpr int kGates = Cell::kGates;

  int64_t weight_bytes() const { return width() * kGates * hidden_ * static_cast<int64_t>(sizeof(T)); }

  int64_t width() const { return panels_ * kPanel<T>; }

  Range units_of(const RecurrentPart& part) const {
    const int64_t end = part.blocks.end * kPanel<T>;
    return {part.blocks.begin * kPanel<T>, end < hidden_ ? end : hidden_};
  }

  void pack(int64_t panel) {
    const int64_t unit = panel * kPanel<T>;
    const T* from = static_cast<const T*>(a_.weight_hh) + unit;
    T* to = packed_ + unit * kGates * hidden_;
    for (int64_t k = 0; k < kGates * hidden_; ++k, from += hidden_, to += kPanel<T>) {
      for (int j = 0; j < kPanelVectors; ++j) {
        const int64_t left = hidden_ - unit - j * kLanes<T>;
        const int lanes = left <= 0 ? 0 : left < kLanes<T> ? static_cast<int>(left) : kLanes<T>;
        store(to + j * kLanes<T>, load(from + j * kLanes<T>, lanes));
      }
    }
  }

  void gate_gradients(int64_t t, const RecurrentPart& part) {
    const Range units = units_of(part);
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      const int64_t length = row_length(a_.lengths, row, a_.sizes.steps);
      for (int64_t unit = units.begin; unit < units.end; unit += kLanes<T>) {
        const int64_t left = units.end - unit;
        const BackwardRow<T> at = row_at(t, row, unit, left < kLanes<T> ? static_cast<int>(left) : kLanes<T>);
        if (t >= length) {
          clear(at);
          continue;
        }
        Vec<T> grad_h = t + 1 == length ? load(grad_h_ + row * hidden_ + unit, at.units) : load(at.carried);
        if (grad_out_ != nullptr) {
          grad_h += load(grad_out_ + (t * a_.sizes.batch + row) * hidden_ + unit, at.units);
        }
        store(at.carried, Cell::backward(at, grad_h));
      }
    }
  }

  BackwardRow<T> row_at(int64_t t, int64_t row, int64_t unit, int units) const {
    const int64_t all = a_.sizes.batch * hidden_, state = row * hidden_ + unit, here = t * all + state;
    const int64_t gates = (t * a_.sizes.batch + row) * kGates * hidden_ + unit;
    const T* out = static_cast<const T*>(a_.out);
    const T* cells = static_cast<const T*>(a_.cells);
    return {
        .gates = shifted(static_cast<const T*>(a_.activations), gates),
        .grad_gates = grad_gates_ + gates,
        .hidden_new = shifted(static_cast<const T*>(a_.hidden_new), here),
        .grad_hidden_new = shifted(grad_hidden_new_, here),
        .h_before = t == 0 ? shifted(static_cast<const T*>(a_.h0), state) : shifted(out, here - all),
        .c_before = t == 0 ? shifted(static_cast<const T*>(a_.c0), state) : shifted(cells, here - all),
        .out = shifted(out, here),
        .cells = shifted(cells, here),
        .carried = carried_ + row * width() + unit,
        .grad_c = shifted(static_cast<T*>(a_.grad_c), state),
        .hidden = hidden_,
        .units = units,
    };
  }

  // A row behind its length.
  static void clear(const BackwardRow<T>& row) {
    for (int g = 0; g < kGates; ++g) store(row.grad_gates + g * row.hidden, Vec<T>{}, row.units);
    if constexpr (Cell::kHasHiddenNew) store(row.grad_hidden_new, Vec<T>{}, row.units);
  }

  // carried_ += the gradient of W_hh h times W_hh, for this thread's rows and columns.
  void carry(int64_t t, const RecurrentPart& part) {
    const int64_t row = kGates * hidden_, own = Cell::kHasHiddenNew ? kGates - 1 : kGates;
    const int64_t begin = t * a_.sizes.batch + part.rows.begin, count = part.rows.end - part.rows.begin;
    for (int64_t panel = part.blocks.begin; panel < part.blocks.end; ++panel) {
      const T* weights = packed_ + panel * kPanel<T> * row;
      T* to = carried_ + part.rows.begin * width() + panel * kPanel<T>;
      add_product<T, kPanelVectors>(count, own * hidden_, grad_gates_ + begin * row, row, weights, to, width(), true,
                                    part.is_far);
      if constexpr (Cell::kHasHiddenNew) {
        add_product<T, kPanelVectors>(count, hidden_, grad_hidden_new_ + begin * hidden_, hidden_,
                                      weights + own * hidden_ * kPanel<T>, to, width(), true, part.is_far);
      }
    }
  }

  // A row of no steps has its last state's gradient for the first's.
  void store_carried(const RecurrentPart& part) {
    const Range units = units_of(part);
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      if (row_length(a_.lengths, row, a_.sizes.steps) == 0) continue;
      for (int64_t j = units.begin; j < units.end; ++j) grad_h_[row * hidden_ + j] = carried_[row * width() + j];
    }
  }

  const RecurrentBackward& a_;
  T* grad_gates_;
  T* grad_hidden_new_;
  const T* grad_out_;
  T* grad_h_;
  int64_t hidden_, panels_;
  SpinBarrier meeting_;
  T* packed_ = nullptr;
  T* carried_ = nullptr;  // [B, width()]: the gradient of h that the later step hands to this one
};

template <typename T>
void run(const RecurrentBackward& a) {
  switch (a.kind) {
    case Recurrence::kLstm:
      return BackwardPass<T, LstmCell<T>>(a).run();
    case Recurrence::kGru:
      return BackwardPass<T, GruCell<T>>(a).run();
    case Recurrence::kTanh:
      return BackwardPass<T, PlainCell<T, false>>(a).run();
    case Recurrence::kRelu:
      return BackwardPass<T, PlainCell<T, true>>(a).run();
  }
}

}  // namespace

void recurrent_backward_float32(const RecurrentBackward& arguments) { run<float>(arguments); }

void recurrent_backward_float64(const RecurrentBackward& arguments) { run<double>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
