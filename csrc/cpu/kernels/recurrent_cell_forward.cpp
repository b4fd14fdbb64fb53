// A step forward with layer norms or zoneout.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/recurrent_cell.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// The arrays of one row of the batch at one step.
template <typename T>
struct CellRow {
  const CellForward& a;
  int64_t row, hidden;
  const T *gates, *gain, *bias_new, *gain_c, *bias_c;
  T *products, *h, *c, *out, *activations, *cells, *hidden_new, *statistics;

  WORDKILN_INLINE CellRow(const CellForward& arguments, int64_t row_, int64_t gates_count)
      : a(arguments),
        row(row_),
        hidden(arguments.sizes.hidden),
        gain(static_cast<const T*>(arguments.gain_hh)),
        bias_new(static_cast<const T*>(arguments.bias_new)),
        gain_c(static_cast<const T*>(arguments.gain_c)),
        bias_c(static_cast<const T*>(arguments.bias_c)) {
    const int64_t at = a.step * a.sizes.batch + row, kept = a.keep ? at : row, width = gates_count * hidden;
    gates = behind<T>(a.gates, at * width);
    products = behind<T>(a.products, kept * width);
    activations = behind<T>(a.activations, kept * width);
    h = behind<T>(a.h, row * hidden);
    c = behind<T>(a.c, row * hidden);
    out = behind<T>(a.out, at * hidden);
    cells = behind<T>(a.cells, kept * hidden);
    hidden_new = behind<T>(a.hidden_new, kept * hidden);
    statistics = behind<T>(a.statistics, kept * kCellStatistics);
  }

  WORDKILN_INLINE bool goes_on() const { return a.lengths == nullptr || a.step < a.lengths[row]; }

  WORDKILN_INLINE void normalise_products(int64_t width) const {
    const RowStatistics<T> seen = statistics_of(products, width, a.eps);
    statistics[kProductScale] = seen.scale;
    for_vectors<T>(0, width, [&](int64_t j, int lanes) {
      store(products + j, (load(products + j, lanes) - seen.mean) * seen.scale, lanes);
    });
  }

  // What W_hh h gives to a gate.
  WORDKILN_INLINE Vec<T> recurrent(int gate, int64_t j, int lanes) const {
    const Vec<T> product = load(products + gate * hidden + j, lanes);
    return gain == nullptr ? product : product * load(gain + gate * hidden + j, lanes);
  }

  WORDKILN_INLINE Vec<T> pre_activation(int gate, int64_t j, int lanes) const {
    return load(gates + gate * hidden + j, lanes) + recurrent(gate, j, lanes);
  }

  WORDKILN_INLINE void activate(int gate, int64_t j, Vec<T> value, int lanes) const {
    store(activations + gate * hidden + j, value, lanes);
  }

  WORDKILN_INLINE void put_out(int64_t j, Vec<T> value, int lanes) const {
    store(h + j, value, lanes);
    store(out + j, value, lanes);
  }
};

// The cells before zoneout and the norm.
template <typename T>
WORDKILN_INLINE void renew_cells(const CellRow<T>& row) {
  for_vectors<T>(0, row.hidden, [&](int64_t j, int lanes) {
    const Vec<T> input = sigmoid<T>(row.pre_activation(0, j, lanes));
    const Vec<T> forget = sigmoid<T>(row.pre_activation(1, j, lanes));
    const Vec<T> cell = tanh<T>(row.pre_activation(2, j, lanes));
    const Vec<T> output = sigmoid<T>(row.pre_activation(3, j, lanes));
    row.activate(0, j, input, lanes);
    row.activate(1, j, forget, lanes);
    row.activate(2, j, cell, lanes);
    row.activate(3, j, output, lanes);
    store(row.cells + j, forget * load(row.c + j, lanes) + input * cell, lanes);
  });
}

template <typename T>
WORDKILN_INLINE void put_out_cells(const CellRow<T>& row) {
  RowStatistics<T> seen = {T{0}, T{1}};
  if (row.gain != nullptr) {
    seen = statistics_of(row.cells, row.hidden, row.a.eps);
    row.statistics[kCellMean] = seen.mean;
    row.statistics[kCellScale] = seen.scale;
  }
  Kept<T> kept_h(row.a.zoneout, row.a.step, row.row, 0), kept_c(row.a.zoneout, row.a.step, row.row, 1);
  for_kept<T>(kept_h, row.hidden, [&](int64_t j, int lanes) {
    if (j % kDrawn == 0) kept_c.draw(j);
    const Vec<T> fresh = load(row.cells + j, lanes);
    Vec<T> shown = fresh;
    if (row.gain != nullptr) {
      shown = (fresh - seen.mean) * seen.scale * load(row.gain_c + j, lanes) + load(row.bias_c + j, lanes);
    }
    const Vec<T> h = load(row.activations + 3 * row.hidden + j, lanes) * tanh<T>(shown);
    row.put_out(j, mix<T>(kept_h.at(j), load(row.h + j, lanes), h), lanes);
    const Vec<T> c = mix<T>(kept_c.at(j), load(row.c + j, lanes), fresh);
    store(row.c + j, c, lanes);
    store(row.cells + j, c, lanes);
  });
}

template <typename T>
WORDKILN_INLINE void finish_gru(const CellRow<T>& row) {
  Kept<T> kept(row.a.zoneout, row.a.step, row.row, 0);
  for_kept<T>(kept, row.hidden, [&](int64_t j, int lanes) {
    const Vec<T> reset = sigmoid<T>(row.pre_activation(0, j, lanes));
    const Vec<T> update = sigmoid<T>(row.pre_activation(1, j, lanes));
    Vec<T> hidden_new = row.recurrent(2, j, lanes);
    if (row.bias_new != nullptr) hidden_new += load(row.bias_new + j, lanes);
    const Vec<T> fresh = tanh<T>(load(row.gates + 2 * row.hidden + j, lanes) + reset * hidden_new);
    row.activate(0, j, reset, lanes);
    row.activate(1, j, update, lanes);
    row.activate(2, j, fresh, lanes);
    store(row.hidden_new + j, hidden_new, lanes);
    const Vec<T> before = load(row.h + j, lanes);
    row.put_out(j, mix<T>(kept.at(j), before, fresh + update * (before - fresh)), lanes);
  });
}

// Behind its length: the state stays, and what is kept says the same each time.
template <typename T>
void skip(const CellRow<T>& row, int64_t gates_count) {
  clear(row.out, row.hidden);
  clear(row.activations, gates_count * row.hidden);
  if (row.a.kind == Recurrence::kLstm) {
    clear(row.cells, row.hidden);
  } else {
    clear(row.hidden_new, row.hidden);
  }
}

template <typename T>
void forward(const CellForward& a) {
  const bool is_lstm = a.kind == Recurrence::kLstm;
  const int64_t gates_count = is_lstm ? 4 : 3;
  for_rows(a.sizes, 120, [&](int64_t index) {
    const CellRow<T> row(a, index, gates_count);
    if (!row.goes_on()) return skip(row, gates_count);
    if (row.gain != nullptr) row.normalise_products(gates_count * row.hidden);
    if (!is_lstm) return finish_gru(row);
    renew_cells(row);
    put_out_cells(row);
  });
}

}  // namespace

void cell_forward_float32(const CellForward& arguments) { forward<float>(arguments); }
void cell_forward_float64(const CellForward& arguments) { forward<double>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
