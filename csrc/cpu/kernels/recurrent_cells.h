// The elementwise part of each recurrence: one row of the batch, one vector of units.
//
// A cell says how many gates it has, what follows from its pre-activations and W_hh h (`finish`), the gradients of its
// pre-activations, and what of the gradient of h_before does not go through W_hh (`backward`). `kVectors` of its gates
// are multiplied at a time. The maths is in docs/recurrence.md.
#pragma once

#include "cpu/kernels/math.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// Pointers to the first unit of the vector; gates are `hidden` elements apart.
template <typename T>
struct ForwardRow {
  T* gates;
  const T* bias_hh;
  const T* h_before;
  const T* c_before;
  T* out;
  T* cells;
  T* hidden_new;
  int64_t hidden;
  int units;  // of the vector that exist
  bool keep;

  WORDKILN_INLINE Vec<T> gate(int g) const { return load(gates + g * hidden, units); }
};

template <typename T>
struct BackwardRow {
  const T* gates;
  T* grad_gates;
  const T* hidden_new;
  T* grad_hidden_new;
  const T* h_before;
  const T* c_before;
  const T* out;
  const T* cells;
  T* carried;  // a whole vector
  T* grad_c;
  int64_t hidden;
  int units;
};

template <typename T>
struct LstmCell {
  static constexpr int kGates = 4, kVectors = 2;
  static constexpr bool kHasCells = true, kHasHiddenNew = false;

  WORDKILN_INLINE static void finish(const ForwardRow<T>& row, const T* product) {
    const Vec<T> input = sigmoid<T>(row.gate(0) + load(product));
    const Vec<T> forget = sigmoid<T>(row.gate(1) + load(product + kLanes<T>));
    const Vec<T> cell = tanh<T>(row.gate(2) + load(product + 2 * kLanes<T>));
    const Vec<T> output = sigmoid<T>(row.gate(3) + load(product + 3 * kLanes<T>));
    const Vec<T> c = forget * load(row.c_before, row.units) + input * cell;
    store(row.cells, c, row.units);
    store(row.out, output * tanh<T>(c), row.units);
    if (!row.keep) return;
    store(row.gates, input, row.units);
    store(row.gates + row.hidden, forget, row.units);
    store(row.gates + 2 * row.hidden, cell, row.units);
    store(row.gates + 3 * row.hidden, output, row.units);
  }

  WORDKILN_INLINE static Vec<T> backward(const BackwardRow<T>& row, Vec<T> grad_h) {
    const int64_t hidden = row.hidden;
    const int n = row.units;
    const Vec<T> input = load(row.gates, n), forget = load(row.gates + hidden, n);
    const Vec<T> cell = load(row.gates + 2 * hidden, n), output = load(row.gates + 3 * hidden, n);
    const Vec<T> tanh_c = tanh<T>(load(row.cells, n));
    const Vec<T> grad_c = load(row.grad_c, n) + grad_h * output * (T{1} - tanh_c * tanh_c);
    store(row.grad_gates, grad_c * cell * input * (T{1} - input), n);
    store(row.grad_gates + hidden, grad_c * load(row.c_before, n) * forget * (T{1} - forget), n);
    store(row.grad_gates + 2 * hidden, grad_c * input * (T{1} - cell * cell), n);
    store(row.grad_gates + 3 * hidden, grad_h * tanh_c * output * (T{1} - output), n);
    store(row.grad_c, grad_c * forget, n);
    return Vec<T>{};
  }
};

template <typename T>
struct GruCell {
  static constexpr int kGates = 3, kVectors = 3;
  static constexpr bool kHasCells = false, kHasHiddenNew = true;

  WORDKILN_INLINE static void finish(const ForwardRow<T>& row, const T* product) {
    const Vec<T> reset = sigmoid<T>(row.gate(0) + recurrent(row, product, 0));
    const Vec<T> update = sigmoid<T>(row.gate(1) + recurrent(row, product, 1));
    const Vec<T> hidden_new = recurrent(row, product, 2);
    const Vec<T> fresh = tanh<T>(row.gate(2) + reset * hidden_new);
    store(row.out, fresh + update * (load(row.h_before, row.units) - fresh), row.units);
    if (!row.keep) return;
    store(row.gates, reset, row.units);
    store(row.gates + row.hidden, update, row.units);
    store(row.gates + 2 * row.hidden, fresh, row.units);
    store(row.hidden_new, hidden_new, row.units);
  }

  // What W_hh h and its bias give to a gate.
  WORDKILN_INLINE static Vec<T> recurrent(const ForwardRow<T>& row, const T* product, int g) {
    const Vec<T> sum = load(product + g * kLanes<T>);
    return row.bias_hh == nullptr ? sum : sum + load(row.bias_hh + g * row.hidden, row.units);
  }

  WORDKILN_INLINE static Vec<T> backward(const BackwardRow<T>& row, Vec<T> grad_h) {
    const int64_t hidden = row.hidden;
    const int n = row.units;
    const Vec<T> reset = load(row.gates, n), update = load(row.gates + hidden, n);
    const Vec<T> fresh = load(row.gates + 2 * hidden, n);
    const Vec<T> grad_update = grad_h * (load(row.h_before, n) - fresh) * update * (T{1} - update);
    const Vec<T> grad_fresh = grad_h * (T{1} - update) * (T{1} - fresh * fresh);
    const Vec<T> grad_reset = grad_fresh * load(row.hidden_new, n) * reset * (T{1} - reset);
    store(row.grad_gates, grad_reset, n);
    store(row.grad_gates + hidden, grad_update, n);
    store(row.grad_gates + 2 * hidden, grad_fresh, n);
    store(row.grad_hidden_new, grad_fresh * reset, n);
    return grad_h * update;
  }
};

template <typename T, bool kRectified>
struct PlainCell {
  static constexpr int kGates = 1, kVectors = 1;
  static constexpr bool kHasCells = false, kHasHiddenNew = false;

  WORDKILN_INLINE static void finish(const ForwardRow<T>& row, const T* product) {
    const Vec<T> sum = row.gate(0) + load(product);
    if constexpr (kRectified) {
      store(row.out, sum < T{0} ? Vec<T>{} : sum, row.units);  // a NaN stays one
    } else {
      store(row.out, tanh<T>(sum), row.units);
    }
  }

  WORDKILN_INLINE static Vec<T> backward(const BackwardRow<T>& row, Vec<T> grad_h) {
    const Vec<T> h = load(row.out, row.units);
    if constexpr (kRectified) {
      store(row.grad_gates, h > T{0} ? grad_h : Vec<T>{}, row.units);
    } else {
      store(row.grad_gates, grad_h * (T{1} - h * h), row.units);
    }
    return Vec<T>{};
  }
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
