// The elementwise part of each recurrence, for a row of the batch.
//
// A cell says how many gates it has, the new h from its pre-activations and W_hh h (`finish`), the gradients of its
// pre-activations, and what of the gradient of h_before does not go through W_hh (`backward`). `kVectors` of its gates
// are multiplied at a time. The maths is in docs/recurrence.md.
//
// `finish` goes through a row once for each sigmoid and tanh: with all of a vector's in one turn the processor waits
// for each one's chain of dependent steps, as the next turn's lie too far ahead for it (an LSTM's forward pass of 2.3
// ms took 1.9).
#pragma once

#include "cpu/kernels/math.h"
#include "cpu/kernels/parallel.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// What a forward pass keeps of a gate. bfloat16 keeps what went into the sigmoid or tanh, which the backward pass takes
// again: a forget gate above 0.998 would be kept as 1, and the gradient of hundreds of steps be off by a factor.
template <typename T>
WORDKILN_INLINE void keep_gate(T* to, Vec<T>, Vec<T> gate, int units) {
  store(to, gate, units);
}

WORDKILN_INLINE void keep_gate(Bfloat16* to, Vec<float> before, Vec<float>, int units) { store(to, before, units); }

// Pointers to the row's first unit; gates are `hidden` elements apart.
template <typename Stored>
struct ForwardRow {
  typedef Computed<Stored> T;
  Stored* gates;
  const Stored* bias_ih;
  const Stored* bias_hh;
  T* products;        // W_hh h, [vector of units][gate][kLanes]; becomes the gates
  const T* h_before;  // GRU
  const T* c_before;
  Stored* out;
  T* cells;
  Stored* hidden_new;
  int64_t hidden;
  bool keep;

  // What the inputs and their bias give to a gate.
  WORDKILN_INLINE Vec<T> from_inputs(int g, int64_t unit, int units) const {
    const Vec<T> x = load(gates + g * hidden + unit, units);
    return bias_ih == nullptr ? x : x + load(bias_ih + g * hidden + unit, units);
  }

  // What W_hh h and its bias give to a gate, of so many.
  template <int kGates>
  WORDKILN_INLINE Vec<T> from_state(int g, int64_t unit, int units) const {
    const Vec<T> x = load(products + unit * kGates + g * kLanes<T>);
    return bias_hh == nullptr ? x : x + load(bias_hh + g * hidden + unit, units);
  }
};

template <typename Stored>
struct BackwardRow {
  typedef Computed<Stored> T;
  const T* gates;
  const Stored* hidden_new;
  const Stored* h_before;
  const T* c_before;
  const Stored* out;
  const T* cells;
  T* grad_c;
  int64_t hidden;
};

// A gate in the place of its product.
template <typename Cell, typename Stored, typename T = Computed<Stored>>
WORDKILN_INLINE void finish_gate(const ForwardRow<Stored>& row, int g, Range units) {
  for_vectors<T>(units.begin, units.end, [&](int64_t unit, int n) __attribute__((always_inline)) {
    const Vec<T> a = row.from_inputs(g, unit, n) + row.template from_state<Cell::kGates>(g, unit, n);
    const Vec<T> gate = Cell::activate(g, a);
    store(row.products + unit * Cell::kGates + g * kLanes<T>, gate);
    if (row.keep) keep_gate(row.gates + g * row.hidden + unit, a, gate, n);
  });
}

template <typename Stored>
struct LstmCell {
  typedef Computed<Stored> T;
  static constexpr int kGates = 4, kVectors = 2, kGrads = 4;
  static constexpr bool kHasCells = true, kHasHiddenNew = false;

  WORDKILN_INLINE static Vec<T> activate(int g, Vec<T> x) { return g == 2 ? tanh<T>(x) : sigmoid<T>(x); }

  // put(unit, units, h) for each vector of the units.
  template <typename Put>
  static void finish(const ForwardRow<Stored>& row, Range units, Put put) {
    WORDKILN_UNROLL
    for (int g = 0; g < kGates; ++g) finish_gate<LstmCell>(row, g, units);
    for_vectors<T>(units.begin, units.end, [&](int64_t unit, int n) __attribute__((always_inline)) {
      const T* gates = row.products + unit * kGates;
      const Vec<T> c =
          load(gates + kLanes<T>) * load(row.c_before + unit, n) + load(gates) * load(gates + 2 * kLanes<T>);
      store(row.cells + unit, c, n);
      put(unit, n, load(gates + 3 * kLanes<T>) * tanh<T>(c));
    });
  }

  WORDKILN_INLINE static Vec<T> backward(const BackwardRow<Stored>& row, int64_t unit, int n, Vec<T> grad_h,
                                         Vec<T> (&grads)[kGrads]) {
    const T* gates = row.gates + unit;
    const Vec<T> input = load(gates, n), forget = load(gates + row.hidden, n);
    const Vec<T> cell = load(gates + 2 * row.hidden, n), output = load(gates + 3 * row.hidden, n);
    const Vec<T> tanh_c = tanh<T>(load(row.cells + unit, n));
    const Vec<T> grad_c = load(row.grad_c + unit, n) + grad_h * output * (T{1} - tanh_c * tanh_c);
    grads[0] = grad_c * cell * input * (T{1} - input);
    grads[1] = grad_c * load(row.c_before + unit, n) * forget * (T{1} - forget);
    grads[2] = grad_c * input * (T{1} - cell * cell);
    grads[3] = grad_h * tanh_c * output * (T{1} - output);
    store(row.grad_c + unit, grad_c * forget, n);
    return Vec<T>{};
  }
};

// Behind the gradients of its gates comes that of W_hh h's part of the new one.
template <typename Stored>
struct GruCell {
  typedef Computed<Stored> T;
  static constexpr int kGates = 3, kVectors = 3, kGrads = 4;
  static constexpr bool kHasCells = false, kHasHiddenNew = true;

  WORDKILN_INLINE static Vec<T> activate(int g, Vec<T> x) { return g == 2 ? tanh<T>(x) : sigmoid<T>(x); }

  template <typename Put>
  static void finish(const ForwardRow<Stored>& row, Range units, Put put) {
    WORDKILN_UNROLL
    for (int g = 0; g < 2; ++g) finish_gate<GruCell>(row, g, units);
    for_vectors<T>(units.begin, units.end, [&](int64_t unit, int n) __attribute__((always_inline)) {
      const T* gates = row.products + unit * kGates;
      const Vec<T> hidden_new = row.template from_state<kGates>(2, unit, n);
      const Vec<T> a = row.from_inputs(2, unit, n) + load(gates) * hidden_new, fresh = activate(2, a);
      if (row.keep) {
        keep_gate(row.gates + 2 * row.hidden + unit, a, fresh, n);
        store(row.hidden_new + unit, hidden_new, n);
      }
      put(unit, n, fresh + load(gates + kLanes<T>) * (load(row.h_before + unit, n) - fresh));
    });
  }

  WORDKILN_INLINE static Vec<T> backward(const BackwardRow<Stored>& row, int64_t unit, int n, Vec<T> grad_h,
                                         Vec<T> (&grads)[kGrads]) {
    const T* gates = row.gates + unit;
    const Vec<T> reset = load(gates, n), update = load(gates + row.hidden, n), fresh = load(gates + 2 * row.hidden, n);
    const Vec<T> grad_fresh = grad_h * (T{1} - update) * (T{1} - fresh * fresh);
    grads[0] = grad_fresh * load(row.hidden_new + unit, n) * reset * (T{1} - reset);
    grads[1] = grad_h * (load(row.h_before + unit, n) - fresh) * update * (T{1} - update);
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

  template <typename Put>
  static void finish(const ForwardRow<Stored>& row, Range units, Put put) {
    for_vectors<T>(units.begin, units.end, [&](int64_t unit, int n) __attribute__((always_inline)) {
      const Vec<T> sum = row.from_inputs(0, unit, n) + row.template from_state<kGates>(0, unit, n);
      if constexpr (kRectified) {
        put(unit, n, sum < T{0} ? Vec<T>{} : sum);  // a NaN stays one
      } else {
        put(unit, n, tanh<T>(sum));
      }
    });
  }

  WORDKILN_INLINE static Vec<T> backward(const BackwardRow<Stored>& row, int64_t unit, int n, Vec<T> grad_h,
                                         Vec<T> (&grads)[kGrads]) {
    const Vec<T> h = load(row.out + unit, n);
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
