// The elementwise part of a step, of one unit of one row. The maths is in docs/recurrence.md.
//
// The way back reads what went into each sigmoid and tanh and takes them again. Kept in 16 bits themselves, a forget
// gate above 0.998 would be 1, and the gradient through hundreds of steps off by a factor.
#pragma once

#include <cmath>
#include <type_traits>

#include "cuda/device/device.h"

namespace wordkiln::cuda {

// Of 16-bit elements the fast functions' error, below 1e-6, is far below a rounding; of float32 it would not be.
template <typename T>
WORDKILN_DEVICE float sigmoid(float x) {
  if constexpr (std::is_same_v<T, float>) return 1.0f / (1.0f + expf(-x));
  return device::sigmoid_fast(x);
}

template <typename T>
WORDKILN_DEVICE float hyperbolic_tangent(float x) {
  if constexpr (std::is_same_v<T, float>) return tanhf(x);
  return device::tanh_fast(x);
}

// What a step back reads of one unit; each cell leaves out what it does not have. `inner`: of each gate what its
// sigmoid or tanh was taken of.
template <int kGates>
struct StepBack {
  float inner[kGates];
  float cell, cell_before;     // LSTM
  float hidden_new, h_before;  // GRU
};

struct LstmCell {
  static constexpr int kGates = 4;
  static constexpr bool kHasCells = true, kHasHiddenNew = false;

  // inner: in without `products`; h and c: the state before in, after it out.
  template <typename T>
  WORDKILN_DEVICE static void forward(float (&inner)[kGates], const float (&products)[kGates], float /*bias_new*/,
                                      float& h, float& c, float& /*hidden_new*/) {
    WORDKILN_UNROLL
    for (int g = 0; g < kGates; ++g) inner[g] += products[g];
    c = sigmoid<T>(inner[1]) * c + sigmoid<T>(inner[0]) * hyperbolic_tangent<T>(inner[2]);
    h = sigmoid<T>(inner[3]) * hyperbolic_tangent<T>(c);
  }

  // grads: of the pre-activations. carried: what of the gradient of h does not go through W_hh.
  template <typename T>
  WORDKILN_DEVICE static void backward(const StepBack<kGates>& at, float grad_h, float& carried, float& grad_c,
                                       float (&grads)[kGates], float& /*grad_hidden_new*/) {
    const float input = sigmoid<T>(at.inner[0]), forget = sigmoid<T>(at.inner[1]);
    const float cell = hyperbolic_tangent<T>(at.inner[2]), output = sigmoid<T>(at.inner[3]);
    const float tanh_c = hyperbolic_tangent<T>(at.cell);
    const float grad = grad_c + grad_h * output * (1.0f - tanh_c * tanh_c);
    grads[0] = grad * cell * input * (1.0f - input);
    grads[1] = grad * at.cell_before * forget * (1.0f - forget);
    grads[2] = grad * input * (1.0f - cell * cell);
    grads[3] = grad_h * tanh_c * output * (1.0f - output);
    grad_c = grad * forget;
    carried = 0.0f;
  }
};

struct GruCell {
  static constexpr int kGates = 3;
  static constexpr bool kHasCells = false, kHasHiddenNew = true;

  template <typename T>
  WORDKILN_DEVICE static void forward(float (&inner)[kGates], const float (&products)[kGates], float bias_new, float& h,
                                      float& /*c*/, float& hidden_new) {
    inner[0] += products[0];
    inner[1] += products[1];
    hidden_new = products[2] + bias_new;
    inner[2] += sigmoid<T>(inner[0]) * hidden_new;
    const float fresh = hyperbolic_tangent<T>(inner[2]);
    h = fresh + sigmoid<T>(inner[1]) * (h - fresh);
  }

  template <typename T>
  WORDKILN_DEVICE static void backward(const StepBack<kGates>& at, float grad_h, float& carried, float& /*grad_c*/,
                                       float (&grads)[kGates], float& grad_hidden_new) {
    const float reset = sigmoid<T>(at.inner[0]), update = sigmoid<T>(at.inner[1]);
    const float fresh = hyperbolic_tangent<T>(at.inner[2]);
    grads[2] = grad_h * (1.0f - update) * (1.0f - fresh * fresh);
    grads[1] = grad_h * (at.h_before - fresh) * update * (1.0f - update);
    grads[0] = grads[2] * at.hidden_new * reset * (1.0f - reset);
    grad_hidden_new = grads[2] * reset;
    carried = grad_h * update;
  }
};

}  // namespace wordkiln::cuda
