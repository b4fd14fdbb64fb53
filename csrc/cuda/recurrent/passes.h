// The two passes over a sequence, as the kernels see them: in each step every unit of every row takes kOutputs products
// of its weights with what all units of the row handed on in the step before (kInputs rows of P numbers), and finishes
// the step with them. Going forward that is W_hh h, an output a gate; going back it is the gradient of the
// pre-activations times W_hh, an input a gate. The kernels differ in how they multiply, the passes in what they do.
#pragma once

#include "common/host_device.h"
#include "cuda/recurrent/cells.h"
#include "wordkiln/cuda/recurrent.h"

namespace wordkiln::cuda {

constexpr int64_t kCounterBytes = 256;  // before the numbers that are handed on

struct LayerShape {
  int steps, batch, hidden, pitch;
  const int64_t* lengths;

  WORDKILN_DEVICE bool goes_on(int t, int row) const { return lengths == nullptr || t < lengths[row]; }

  WORDKILN_DEVICE int64_t state(int row, int unit) const { return static_cast<int64_t>(row) * hidden + unit; }

  // An element of [T, B, H], and the first gate's of [T, B, GH].
  WORDKILN_DEVICE int64_t at(int t, int row, int unit) const {
    return (static_cast<int64_t>(t) * batch + row) * hidden + unit;
  }
  WORDKILN_DEVICE int64_t gate(int gates, int t, int row, int unit) const {
    return (static_cast<int64_t>(t) * batch + row) * gates * hidden + unit;
  }
};

// Rows of 16-bit elements start at multiples of 16 bytes.
template <typename T>
constexpr int64_t pitch_of(int64_t hidden) {
  return sizeof(T) == 2 ? (hidden + 7) / 8 * 8 : hidden;
}

template <typename T>
LayerShape shape_of(const RecurrentSizes& sizes, const int64_t* lengths) {
  return {static_cast<int>(sizes.steps), static_cast<int>(sizes.batch), static_cast<int>(sizes.hidden),
          static_cast<int>(pitch_of<T>(sizes.hidden)), lengths};
}

template <typename T, typename Cell>
class ForwardPass {
 public:
  using Element = T;
  static constexpr int kGates = Cell::kGates;
  static constexpr int kOutputs = kGates, kInputs = 1, kStates = Cell::kHasCells ? 2 : 1;
  static constexpr bool kStartsFromH = true;  // else from zeros

  // What the step reads that no other unit makes.
  struct Inputs {
    float inner[kGates];  // without W_hh h
    float bias_new;
    bool goes_on;
  };

  explicit ForwardPass(const LayerForward& a)
      : shape(shape_of<T>(a.sizes, a.lengths)),
        states{a.h, a.c},
        gates_(static_cast<T*>(a.gates)),
        weight_(static_cast<const T*>(a.weight_hh)),
        bias_new_(static_cast<const T*>(a.bias_new)),
        out_(static_cast<T*>(a.out)),
        cells_(a.cells),
        hidden_new_(static_cast<T*>(a.hidden_new)),
        keep_(a.keep) {}

  WORDKILN_HOST_DEVICE int steps() const { return shape.steps; }

  // kInputs * P weights.
  WORDKILN_DEVICE const T* weight(int output, int unit) const {
    return weight_ + (static_cast<int64_t>(output) * shape.hidden + unit) * shape.pitch;
  }

  WORDKILN_DEVICE Inputs load(int step, int row, int unit) const {
    Inputs in;
    in.goes_on = shape.goes_on(step, row);
    const T* gates = gates_ + shape.gate(kGates, step, row, unit);
    WORDKILN_UNROLL
    for (int g = 0; g < kGates; ++g) in.inner[g] = device::to_float(gates[g * shape.hidden]);
    in.bias_new = bias_new_ == nullptr ? 0.0f : device::to_float(bias_new_[unit]);
    return in;
  }

  // next: where the row hands on its numbers.
  WORDKILN_DEVICE void finish(int step, int row, int unit, Inputs in, const float (&products)[kOutputs],
                              float (&state)[2], T* next) const {
    float hidden_new = 0.0f;
    if (in.goes_on) Cell::template forward<T>(in.inner, products, in.bias_new, state[0], state[1], hidden_new);
    const T h = device::from_float<T>(state[0]);
    const int64_t here = shape.at(step, row, unit);
    next[unit] = h;
    out_[here] = in.goes_on ? h : device::from_float<T>(0.0f);
    if (!keep_) return;
    if constexpr (Cell::kHasCells) cells_[here] = state[1];
    if constexpr (Cell::kHasHiddenNew) hidden_new_[here] = device::from_float<T>(hidden_new);
    if (!in.goes_on) return;
    T* gates = gates_ + shape.gate(kGates, step, row, unit);
    WORDKILN_UNROLL
    for (int g = 0; g < kGates; ++g) gates[g * shape.hidden] = device::from_float<T>(in.inner[g]);
  }

  LayerShape shape;
  float* states[2];  // h, c

 private:
  T* gates_;
  const T* weight_;
  const T* bias_new_;
  T* out_;
  float* cells_;
  T* hidden_new_;
  bool keep_;
};

template <typename T, typename Cell>
class BackwardPass {
 public:
  using Element = T;
  static constexpr int kGates = Cell::kGates;
  static constexpr int kOutputs = 1, kInputs = kGates, kStates = Cell::kHasCells ? 2 : 1;
  static constexpr bool kStartsFromH = false;

  struct Inputs {
    StepBack<kGates> at;
    float grad_out;
    bool goes_on;
  };

  explicit BackwardPass(const LayerBackward& a)
      : shape(shape_of<T>(a.sizes, a.lengths)),
        states{a.grad_h, a.grad_c},
        gates_(static_cast<const T*>(a.gates)),
        grad_gates_(static_cast<T*>(a.grad_gates)),
        hidden_new_(static_cast<const T*>(a.hidden_new)),
        grad_hidden_new_(static_cast<T*>(a.grad_hidden_new)),
        weight_(static_cast<const T*>(a.weight_hh_t)),
        h0_(static_cast<const T*>(a.h0)),
        c0_(static_cast<const T*>(a.c0)),
        out_(static_cast<const T*>(a.out)),
        cells_(a.cells),
        grad_out_(static_cast<const T*>(a.grad_out)) {}

  // The last one only brings the gradient through the first step's product.
  WORDKILN_HOST_DEVICE int steps() const { return shape.steps + 1; }

  WORDKILN_DEVICE const T* weight(int /*output*/, int unit) const {
    return weight_ + static_cast<int64_t>(unit) * kInputs * shape.pitch;
  }

  WORDKILN_DEVICE Inputs load(int step, int row, int unit) const {
    Inputs in = {};
    const int t = shape.steps - 1 - step;
    in.goes_on = t >= 0 && shape.goes_on(t, row);
    if (!in.goes_on) return in;
    const T* gates = gates_ + shape.gate(kGates, t, row, unit);
    WORDKILN_UNROLL
    for (int g = 0; g < kGates; ++g) in.at.inner[g] = device::to_float(gates[g * shape.hidden]);
    const int64_t here = shape.at(t, row, unit);
    if (grad_out_ != nullptr) in.grad_out = device::to_float(grad_out_[here]);
    if constexpr (Cell::kHasCells) {
      in.at.cell = cells_[here];
      in.at.cell_before = t > 0 ? cells_[shape.at(t - 1, row, unit)] : first(c0_, row, unit);
    }
    if constexpr (Cell::kHasHiddenNew) {
      in.at.hidden_new = device::to_float(hidden_new_[here]);
      in.at.h_before = t > 0 ? device::to_float(out_[shape.at(t - 1, row, unit)]) : first(h0_, row, unit);
    }
    return in;
  }

  // Behind a row's length nothing is handed on and the state, at first the last h's gradient, waits.
  WORDKILN_DEVICE void finish(int step, int row, int unit, const Inputs& in, const float (&products)[kOutputs],
                              float (&state)[2], T* next) const {
    const int t = shape.steps - 1 - step;
    if (t < 0) {
      state[0] += products[0];
      return;
    }
    float grads[kGates] = {}, grad_hidden_new = 0.0f;
    if (in.goes_on) {
      const float grad_h = state[0] + products[0] + in.grad_out;
      Cell::template backward<T>(in.at, grad_h, state[0], state[1], grads, grad_hidden_new);
    }
    T* gates = grad_gates_ + shape.gate(kGates, t, row, unit);
    WORDKILN_UNROLL
    for (int g = 0; g < kGates; ++g) {
      const T grad = device::from_float<T>(grads[g]);
      gates[g * shape.hidden] = grad;
      next[g * shape.pitch + unit] = grad;
    }
    if constexpr (Cell::kHasHiddenNew) {
      // The new gate sees W_hh h through the reset gate.
      const T grad = device::from_float<T>(grad_hidden_new);
      grad_hidden_new_[shape.at(t, row, unit)] = grad;
      next[(kGates - 1) * shape.pitch + unit] = grad;
    }
  }

  LayerShape shape;
  float* states[2];  // in: gradients of the last h and c; out: of the first

 private:
  WORDKILN_DEVICE float first(const T* state, int row, int unit) const {
    return state == nullptr ? 0.0f : device::to_float(state[shape.state(row, unit)]);
  }

  const T* gates_;
  T* grad_gates_;
  const T* hidden_new_;
  T* grad_hidden_new_;
  const T* weight_;
  const T* h0_;
  const T* c0_;
  const T* out_;
  const float* cells_;
  const T* grad_out_;
};

// What the units of each row hand on: [2][B][kInputs P], of which a step reads one half and writes the other.
template <typename Pass>
struct Exchange {
  using T = typename Pass::Element;

  unsigned* counter;  // of sync_grid
  T* numbers;

  Exchange(void* workspace)
      : counter(static_cast<unsigned*>(workspace)),
        numbers(reinterpret_cast<T*>(static_cast<char*>(workspace) + kCounterBytes)) {}

  static int64_t bytes(const LayerShape& shape) {
    return kCounterBytes + int64_t{2} * shape.batch * Pass::kInputs * shape.pitch * static_cast<int64_t>(sizeof(T));
  }

  WORDKILN_DEVICE T* row(const LayerShape& shape, int step, int row) const {
    return numbers + (static_cast<int64_t>(step % 2) * shape.batch + row) * Pass::kInputs * shape.pitch;
  }
};

}  // namespace wordkiln::cuda
