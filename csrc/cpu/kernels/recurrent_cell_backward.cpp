// A step back with layer norms or zoneout.
//
// With n = (x - mean) s and dn given: dx = s (dn - mean(dn) - n mean(dn n)).
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/recurrent_cell.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// The arrays of one row of the batch at one step.
template <typename T>
struct CellBackRow {
  const CellBackward& a;
  int64_t row, hidden;
  const T *activations, *normalised, *hidden_new, *statistics, *gain, *gain_c, *bias_c, *h_before, *c_before, *grad_out;
  T *grad_h, *grad_c, *scratch, *grad_gates, *grad_products, *grad_gain, *grad_gain_c, *grad_bias_c, *grad_bias_new;

  WORDKILN_INLINE CellBackRow(const CellBackward& arguments, int64_t row_, int64_t gates_count)
      : a(arguments),
        row(row_),
        hidden(arguments.sizes.hidden),
        gain(static_cast<const T*>(arguments.gain_hh)),
        gain_c(static_cast<const T*>(arguments.gain_c)),
        bias_c(static_cast<const T*>(arguments.bias_c)) {
    const int64_t at = a.step * a.sizes.batch + row, before = at - a.sizes.batch, width = gates_count * hidden;
    const int64_t own = row * hidden;
    activations = behind<T>(a.activations, at * width);
    normalised = behind<T>(a.normalised, at * width);
    hidden_new = behind<T>(a.hidden_new, at * hidden);
    statistics = behind<T>(a.statistics, at * kCellStatistics);
    const bool is_first = a.step == 0;
    h_before = is_first ? behind<T>(a.h0, own) : behind<T>(a.out, before * hidden);
    c_before = is_first ? behind<T>(a.c0, own) : behind<T>(a.cells, before * hidden);
    grad_out = behind<T>(a.grad_out, at * hidden);
    grad_h = behind<T>(a.grad_h, own);
    grad_c = behind<T>(a.grad_c, own);
    scratch = behind<T>(a.scratch, own);
    grad_gates = behind<T>(a.grad_gates, at * width);
    grad_products = behind<T>(a.grad_products, at * width);
    grad_gain = behind<T>(a.grad_gain_hh, row * width);
    grad_gain_c = behind<T>(a.grad_gain_c, own);
    grad_bias_c = behind<T>(a.grad_bias_c, own);
    grad_bias_new = behind<T>(a.grad_bias_new, own);
  }

  WORDKILN_INLINE bool goes_on() const { return a.lengths == nullptr || a.step < a.lengths[row]; }

  WORDKILN_INLINE Vec<T> gate(int gate, int64_t j, int lanes) const {
    return load(activations + gate * hidden + j, lanes);
  }

  // The gradient of the new h; grad_h keeps what goes around the step.
  WORDKILN_INLINE Vec<T> take_grad_h(Vec<T> kept, int64_t j, int lanes) const {
    Vec<T> grad = load(grad_h + j, lanes);
    if (grad_out != nullptr) grad += load(grad_out + j, lanes);
    store(grad_h + j, kept * grad, lanes);
    return (T{1} - kept) * grad;
  }

  WORDKILN_INLINE Vec<T> fresh_cell(int64_t j, int lanes) const {
    return gate(1, j, lanes) * load(c_before + j, lanes) + gate(0, j, lanes) * gate(2, j, lanes);
  }

  WORDKILN_INLINE Vec<T> normalised_cell(int64_t j, int lanes) const {
    return first<T>((fresh_cell(j, lanes) - statistics[kCellMean]) * statistics[kCellScale], lanes);
  }

  // Of a pre-activation, and of the product that it takes, before the norm.
  WORDKILN_INLINE void put_grad(int gate, int64_t j, Vec<T> grad, int lanes) const {
    put_grads(gate, j, grad, grad, lanes);
  }

  WORDKILN_INLINE void put_grads(int gate, int64_t j, Vec<T> of_gate, Vec<T> of_product, int lanes) const {
    store(grad_gates + gate * hidden + j, of_gate, lanes);
    store(grad_products + gate * hidden + j, of_product, lanes);
  }

  WORDKILN_INLINE static void add(T* to, Vec<T> x, int lanes) { store(to, load(to, lanes) + x, lanes); }
};

template <typename T>
struct NormSums {
  T grad, dot;  // means of dn and of dn n
};

// From h to the normalised cell (without norms: the cell), whose gradient goes to `scratch`.
template <typename T>
WORDKILN_INLINE NormSums<T> back_to_cells(const CellBackRow<T>& row) {
  Kept<T> kept(row.a.zoneout, row.a.step, row.row, 0);
  Vec<T> grads = {}, dots = {};
  for_kept<T>(kept, row.hidden, [&](int64_t j, int lanes) {
    const Vec<T> grad_h = row.take_grad_h(kept.at(j), j, lanes);
    const Vec<T> output = row.gate(3, j, lanes);
    Vec<T> normalised = {}, gain = {}, shown;
    if (row.gain == nullptr) {
      shown = row.fresh_cell(j, lanes);
    } else {
      normalised = row.normalised_cell(j, lanes);
      gain = load(row.gain_c + j, lanes);
      shown = normalised * gain + load(row.bias_c + j, lanes);
    }
    const Vec<T> tanh_c = tanh<T>(shown);
    row.put_grad(3, j, grad_h * tanh_c * output * (T{1} - output), lanes);
    Vec<T> grad = grad_h * output * (T{1} - tanh_c * tanh_c);
    if (row.gain != nullptr) {
      row.add(row.grad_bias_c + j, grad, lanes);
      row.add(row.grad_gain_c + j, grad * normalised, lanes);
      grad *= gain;
      grads += grad;
      dots += grad * normalised;
    }
    store(row.scratch + j, grad, lanes);
  });
  return {sum<T>(grads) / static_cast<T>(row.hidden), sum<T>(dots) / static_cast<T>(row.hidden)};
}

template <typename T>
WORDKILN_INLINE void back_to_gates(const CellBackRow<T>& row, NormSums<T> sums) {
  Kept<T> kept(row.a.zoneout, row.a.step, row.row, 1);
  for_kept<T>(kept, row.hidden, [&](int64_t j, int lanes) {
    const Vec<T> input = row.gate(0, j, lanes), forget = row.gate(1, j, lanes), cell = row.gate(2, j, lanes);
    const Vec<T> share = kept.at(j), after = load(row.grad_c + j, lanes);
    Vec<T> grad = load(row.scratch + j, lanes);
    if (row.gain != nullptr) {
      grad = (grad - sums.grad - row.normalised_cell(j, lanes) * sums.dot) * row.statistics[kCellScale];
    }
    grad += (T{1} - share) * after;
    row.put_grad(0, j, grad * cell * input * (T{1} - input), lanes);
    row.put_grad(1, j, grad * load(row.c_before + j, lanes) * forget * (T{1} - forget), lanes);
    row.put_grad(2, j, grad * input * (T{1} - cell * cell), lanes);
    store(row.grad_c + j, share * after + grad * forget, lanes);
  });
}

template <typename T>
WORDKILN_INLINE void back_through_gru(const CellBackRow<T>& row) {
  Kept<T> kept(row.a.zoneout, row.a.step, row.row, 0);
  for_kept<T>(kept, row.hidden, [&](int64_t j, int lanes) {
    const Vec<T> reset = row.gate(0, j, lanes), update = row.gate(1, j, lanes), fresh = row.gate(2, j, lanes);
    const Vec<T> grad_h = row.take_grad_h(kept.at(j), j, lanes);
    const Vec<T> grad_fresh = grad_h * (T{1} - update) * (T{1} - fresh * fresh);
    const Vec<T> grad_hidden_new = grad_fresh * reset;
    row.put_grad(0, j, grad_fresh * load(row.hidden_new + j, lanes) * reset * (T{1} - reset), lanes);
    row.put_grad(1, j, grad_h * (load(row.h_before + j, lanes) - fresh) * update * (T{1} - update), lanes);
    row.put_grads(2, j, grad_fresh, grad_hidden_new, lanes);
    row.add(row.grad_bias_new + j, grad_hidden_new, lanes);
    row.add(row.grad_h + j, grad_h * update, lanes);
  });
}

// The gradient of the products, from that of what the norm made of them.
template <typename T>
WORDKILN_INLINE void back_through_norm(const CellBackRow<T>& row, int64_t width) {
  Vec<T> grads = {}, dots = {};
  for_vectors<T>(0, width, [&](int64_t j, int lanes) {
    const Vec<T> grad = load(row.grad_products + j, lanes), normalised = load(row.normalised + j, lanes);
    row.add(row.grad_gain + j, grad * normalised, lanes);
    const Vec<T> inner = grad * load(row.gain + j, lanes);
    grads += inner;
    dots += inner * normalised;
  });
  const T mean = sum<T>(grads) / static_cast<T>(width), dot = sum<T>(dots) / static_cast<T>(width);
  for_vectors<T>(0, width, [&](int64_t j, int lanes) {
    const Vec<T> inner = load(row.grad_products + j, lanes) * load(row.gain + j, lanes);
    const Vec<T> grad = (inner - mean - load(row.normalised + j, lanes) * dot) * row.statistics[kProductScale];
    store(row.grad_products + j, grad, lanes);
  });
}

template <typename T>
void backward(const CellBackward& a) {
  const bool is_lstm = a.kind == Recurrence::kLstm;
  const int64_t gates_count = is_lstm ? 4 : 3;
  for_rows(a.sizes, 120, [&](int64_t index) {
    const CellBackRow<T> row(a, index, gates_count);
    const int64_t width = gates_count * row.hidden;
    if (!row.goes_on()) {
      clear(row.grad_gates, width);
      clear(row.grad_products, width);
      return;
    }
    if (is_lstm) {
      back_to_gates(row, back_to_cells(row));
    } else {
      back_through_gru(row);
    }
    if (row.gain != nullptr) back_through_norm(row, width);
  });
}

}  // namespace

void cell_backward_float32(const CellBackward& arguments) { backward<float>(arguments); }
void cell_backward_float64(const CellBackward& arguments) { backward<double>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
