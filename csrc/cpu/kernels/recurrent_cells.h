// The elementwise part of each recurrence: one row of the batch, one vector of units.
//
// A cell says how many gates it has, the new h from its pre-activations and W_hh h (`finish`), the gradients of its
// pre-activations, and what of the gradient of h_before does not go through W_hh (`backward`). `kVectors` of its gates
// are multiplied at a time. The maths is in docs/recurrence.md.
#pragma once

#include "cpu/kernels/math.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// What a forward pass keeps of a gate, and how the backward pass has it back. bfloat16 keeps what went into the
// sigmoid: a forget gate above 0.998 would be kept as 1, and the gradient of hundreds of steps be off by a factor.
template <typename T>
WORDKILN_INLINE void keep_gate(T* to, Vec<T>, Vec<T> gate, int units) {
  store(to, gate, units);
}

WORDKILN_INLINE void keep_gate(Bfloat16* to, Vec<float> before, Vec<float>, int units) { store(to, before, units); }

template <typename T>
WORDKILN_INLINE Vec<T> kept_sigmoid(const T* from, int units) {
  return load(from, units);
}

template <typename T>
WORDKILN_INLINE Vec<T> kept_tanh(const T* from, int units) {
  return load(from, units);
}

WORDKILN_INLINE Vec<float> kept_sigmoid(const Bfloat16* from, int units) {
  return sigmoid<float>(load(from, units));
}

WORDKILN_INLINE Vec<float> kept_tanh(const Bfloat16* from, int units) {
  return tanh<float>(load(from, units));
}

// Pointers to the first unit of the vector; gates are `hidden` elements apart.
template <typename Stored>
struct ForwardRow {
  typedef Computed<Stored> T;
  Stored* gates;
  const Stored* bias;
  const Stored* bias_hh;
  const T* h_before;  // GRU
  const T* c_before;
  Stored* out;
  T* cells;
  Stored* hidden_new;
  int64_t hidden;
  int units;  // of the vector that exist
  bool keep;

  WORDKILN_INLINE Vec<T> gate(int g) const {
    const Vec<T> x = load(gates + g * hidden, units);
    return bias == nullptr ? x : x + load(bias + g * hidden, units);
  }
};

template <typename Stored>
struct BackwardRow {
  typedef Computed<Stored> T;
  const Stored* gates;
  Stored* grad_gates;
  const Stored* hidden_new;
  Stored* grad_hidden_new;
  const Stored* h_before;
  const T* c_before;
  const Stored* out;
  const T* cells;
  T* carried;  // a whole vector
  T* grad_c;
  int64_t hidden;
  int units;
};

// grads: of the pre-activations, gate by gate; the GRU has the gradient of W_hh h's part of the new gate behind them.
template <typename Stored>
struct LstmCell {
  typedef Computed<Stored> T;
  static constexpr int kGates = 4, kVectors = 2, kGrads = 4;
  static constexpr bool kHasCells = true, kHasHiddenNew = false;

  WORDKILN_INLINE static Vec<T> finish(const ForwardRow<Stored>& row, const T* product) {
    Vec<T> a[kGates];
    WORDKILN_UNROLL
    for (int g = 0; g < kGates; ++g) a[g] = row.gate(g) + load(product + g * kLanes<T>);
    const Vec<T> input = sigmoid<T>(a[0]), forget = sigmoid<T>(a[1]), cell = tanh<T>(a[2]), output = sigmoid<T>(a[3]);
    const Vec<T> c = forget * load(row.c_before, row.units) + input * cell;
    store(row.cells, c, row.units);
    const Vec<T> h = output * tanh<T>(c);
    if (!row.keep) return h;
    keep_gate(row.gates, a[0], input, row.units);
    keep_gate(row.gates + row.hidden, a[1], forget, row.units);
    keep_gate(row.gates + 2 * row.hidden, a[2], cell, row.units);
    keep_gate(row.gates + 3 * row.hidden, a[3], output, row.units);
    return h;
  }

  WORDKILN_INLINE static Vec<T> backward(const BackwardRow<Stored>& row, Vec<T> grad_h, Vec<T> (&grads)[kGrads]) {
    const int64_t hidden = row.hidden;
    const int n = row.units;
    const Vec<T> input = kept_sigmoid(row.gates, n), forget = kept_sigmoid(row.gates + hidden, n);
    const Vec<T> cell = kept_tanh(row.gates + 2 * hidden, n), output = kept_sigmoid(row.gates + 3 * hidden, n);
    const Vec<T> tanh_c = tanh<T>(load(row.cells, n));
    const Vec<T> grad_c = load(row.grad_c, n) + grad_h * output * (T{1} - tanh_c * tanh_c);
    grads[0] = grad_c * cell * input * (T{1} - input);
    grads[1] = grad_c * load(row.c_before, n) * forget * (T{1} - forget);
    grads[2] = grad_c * input * (T{1} - cell * cell);
    grads[3] = grad_h * tanh_c * output * (T{1} - output);
    store(row.grad_c, grad_c * forget, n);
    return Vec<T>{};
  }
};

template <typename Stored>
struct GruCell {
  typedef Computed<Stored> T;
  static constexpr int kGates = 3, kVectors = 3, kGrads = 4;
  static constexpr bool kHasCells = false, kHasHiddenNew = true;

  WORDKILN_INLINE static Vec<T> finish(const ForwardRow<Stored>& row, const T* product) {
    const Vec<T> a_reset = row.gate(0) + recurrent(row, product, 0);
    const Vec<T> a_update = row.gate(1) + recurrent(row, product, 1);
    const Vec<T> reset = sigmoid<T>(a_reset), update = sigmoid<T>(a_update);
    const Vec<T> hidden_new = recurrent(row, product, 2), a_fresh = row.gate(2) + reset * hidden_new;
    const Vec<T> fresh = tanh<T>(a_fresh);
    const Vec<T> h = fresh + update * (load(row.h_before, row.units) - fresh);
    if (!row.keep) return h;
    keep_gate(row.gates, a_reset, reset, row.units);
    keep_gate(row.gates + row.hidden, a_update, update, row.units);
    keep_gate(row.gates + 2 * row.hidden, a_fresh, fresh, row.units);
    store(row.hidden_new, hidden_new, row.units);
    return h;
  }

  // What W_hh h and its bias give to a gate.
  WORDKILN_INLINE static Vec<T> recurrent(const ForwardRow<Stored>& row, const T* product, int g) {
    const Vec<T> sum = load(product + g * kLanes<T>);
    return row.bias_hh == nullptr ? sum : sum + load(row.bias_hh + g * row.hidden, row.units);
  }

  WORDKILN_INLINE static Vec<T> backward(const BackwardRow<Stored>& row, Vec<T> grad_h, Vec<T> (&grads)[kGrads]) {
    const int64_t hidden = row.hidden;
    const int n = row.units;
    const Vec<T> reset = kept_sigmoid(row.gates, n), update = kept_sigmoid(row.gates + hidden, n);
    const Vec<T> fresh = kept_tanh(row.gates + 2 * hidden, n);
    const Vec<T> grad_fresh = grad_h * (T{1} - update) * (T{1} - fresh * fresh);
    grads[0] = grad_fresh * load(row.hidden_new, n) * reset * (T{1} - reset);
    grads[1] = grad_h * (load(row.h_before, n) - fresh) * update * (T{1} - update);
    grads[2] = grad_fresh;
    grads[3] = grad_fresh * reset;
    return grad_h * update;
  }
};

template <typename Stored, bool kRectified>
struct PlainCell {
  typedef Computed<Stored> T;
  static constexpr int kGates = 1, kVectors = 1, kGrads = 1;
  static constexpr bool kHasCells = false, kHasHiddenNew = false;

  WORDKILN_INLINE static Vec<T> finish(const ForwardRow<Stored>& row, const T* product) {
    const Vec<T> sum = row.gate(0) + load(product);
    if constexpr (kRectified) {
      return sum < T{0} ? Vec<T>{} : sum;  // a NaN stays one
    } else {
      return tanh<T>(sum);
    }
  }

  WORDKILN_INLINE static Vec<T> backward(const BackwardRow<Stored>& row, Vec<T> grad_h, Vec<T> (&grads)[kGrads]) {
    const Vec<T> h = load(row.out, row.units);
    if constexpr (kRectified) {
      grads[0] = h > T{0} ? grad_h : Vec<T>{};
    } else {
      grads[0] = grad_h * (T{1} - h * h);
    }
    return Vec<T>{};
  }
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
