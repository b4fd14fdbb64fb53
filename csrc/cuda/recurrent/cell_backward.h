// A step back with layer norms or zoneout.
//
// With n = (x - mean) s and dn given: dx = s (dn - mean(dn) - n mean(dn n)).
#pragma once

#include "cuda/recurrent/cell.h"

namespace wordkiln::cuda {

// The arrays of one row at one step; kGates: 4 an LSTM, 3 a GRU.
template <typename T, int kGates>
class CellBackwardRow {
 public:
  WORDKILN_DEVICE CellBackwardRow(const CellBackward& a, const ZoneoutParams& zoneout, int row)
      : a_(a),
        zoneout_(zoneout),
        row_(row),
        hidden_(static_cast<int>(a.sizes.hidden)),
        gain_(static_cast<const T*>(a.gain_hh)),
        gain_c_(static_cast<const T*>(a.gain_c)),
        bias_c_(static_cast<const T*>(a.bias_c)) {
    const int64_t at = a.step * a.sizes.batch + row, before = at - a.sizes.batch, width = int64_t{kGates} * hidden_;
    const int64_t own = row * a.sizes.hidden;
    const bool is_first = a.step == 0;
    activations_ = behind<T>(a.activations, at * width);
    normalised_ = behind<T>(a.normalised, at * width);
    hidden_new_ = behind<T>(a.hidden_new, at * hidden_);
    statistics_ = behind<float>(a.statistics, at * kCellStatistics);
    h_before_ = is_first ? behind<T>(a.h0, own) : behind<T>(a.out, before * hidden_);
    c_before_ = is_first ? behind<float>(a.c0, own) : behind<float>(a.cells, before * hidden_);
    grad_out_ = behind<T>(a.grad_out, at * hidden_);
    grad_h_ = behind<float>(a.grad_h, own);
    grad_c_ = behind<float>(a.grad_c, own);
    scratch_ = behind<float>(a.scratch, own);
    grad_gates_ = behind<T>(a.grad_gates, at * width);
    grad_products_ = behind<T>(a.grad_products, at * width);
    grad_gain_ = behind<float>(a.grad_gain_hh, row * width);
    grad_gain_c_ = behind<float>(a.grad_gain_c, own);
    grad_bias_c_ = behind<float>(a.grad_bias_c, own);
    grad_bias_new_ = behind<float>(a.grad_bias_new, own);
  }

  WORDKILN_DEVICE bool has_norms() const { return gain_ != nullptr; }

  WORDKILN_DEVICE void skip() {
    clear_row(grad_gates_, kGates * hidden_);
    clear_row(grad_products_, kGates * hidden_);
  }

  // From h to the normalised cell (without norms: the cell), whose gradient goes to the scratch.
  WORDKILN_DEVICE void back_to_cells(float& grads, float& dots) {
    for_units(hidden_, [&](int unit) {
      const float grad_h = take_grad_h(unit), output = gate(3, unit);
      const float normalised = has_norms() ? normalised_cell(unit) : 0.0f;
      const float gain = has_norms() ? device::to_float(gain_c_[unit]) : 1.0f;
      const float shown = has_norms() ? normalised * gain + device::to_float(bias_c_[unit]) : fresh_cell(unit);
      const float tanh_c = hyperbolic_tangent<T>(shown);
      const float of_output = grad_h * tanh_c * output * (1.0f - output);
      put_grads(3, unit, of_output, of_output);
      float grad = grad_h * output * (1.0f - tanh_c * tanh_c);
      if (has_norms()) {
        grad_bias_c_[unit] += grad;
        grad_gain_c_[unit] += grad * normalised;
        grad *= gain;
        grads += grad;
        dots += grad * normalised;
      }
      scratch_[unit] = grad;
    });
  }

  WORDKILN_DEVICE void back_to_gates(CellShared& s) {
    float grads = 0.0f, dots = 0.0f;
    back_to_cells(grads, dots);
    if (has_norms()) {
      grads = block_sum(s, 0, grads) / static_cast<float>(hidden_);
      dots = block_sum(s, 1, dots) / static_cast<float>(hidden_);
    }
    for_units(hidden_, [&](int unit) {
      const float input = gate(0, unit), forget = gate(1, unit), cell = gate(2, unit);
      const float share = kept_share(zoneout_, a_.step, row_, 1, unit), after = grad_c_[unit];
      float grad = scratch_[unit];
      if (has_norms()) grad = (grad - grads - normalised_cell(unit) * dots) * statistics_[kCellScale];
      grad += (1.0f - share) * after;
      const float of_gates[3] = {grad * cell * input * (1.0f - input),
                                 grad * c_before_[unit] * forget * (1.0f - forget),
                                 grad * input * (1.0f - cell * cell)};
      WORDKILN_UNROLL
      for (int g = 0; g < 3; ++g) put_grads(g, unit, of_gates[g], of_gates[g]);
      grad_c_[unit] = share * after + grad * forget;
    });
  }

  WORDKILN_DEVICE void back_through_gru() {
    for_units(hidden_, [&](int unit) {
      const float reset = gate(0, unit), update = gate(1, unit), fresh = gate(2, unit);
      const float grad_h = take_grad_h(unit);
      const float grad_fresh = grad_h * (1.0f - update) * (1.0f - fresh * fresh);
      const float of_reset = grad_fresh * device::to_float(hidden_new_[unit]) * reset * (1.0f - reset);
      const float of_update = grad_h * (device::to_float(h_before_[unit]) - fresh) * update * (1.0f - update);
      put_grads(0, unit, of_reset, of_reset);
      put_grads(1, unit, of_update, of_update);
      put_grads(2, unit, grad_fresh, grad_fresh * reset);
      grad_bias_new_[unit] += grad_fresh * reset;
      grad_h_[unit] += grad_h * update;
    });
  }

  // The gradient of the products, from that of what the norm made of them.
  WORDKILN_DEVICE void back_through_norm(CellShared& s) {
    float grads = 0.0f, dots = 0.0f;
    for_products([&](int at, float inner, float normalised) {
      grad_gain_[at] += device::to_float(grad_products_[at]) * normalised;
      grads += inner;
      dots += inner * normalised;
    });
    const float width = static_cast<float>(kGates * hidden_), scale = statistics_[kProductScale];
    const float mean = block_sum(s, 2, grads) / width, dot = block_sum(s, 3, dots) / width;
    for_products([&](int at, float inner, float normalised) {
      grad_products_[at] = device::from_float<T>((inner - mean - normalised * dot) * scale);
    });
  }

 private:
  // As in cells.h, taken again.
  WORDKILN_DEVICE float gate(int gate, int unit) const {
    const float inner = device::to_float(activations_[gate * hidden_ + unit]);
    return gate == 2 ? hyperbolic_tangent<T>(inner) : sigmoid<T>(inner);
  }

  WORDKILN_DEVICE float fresh_cell(int unit) const {
    return gate(1, unit) * c_before_[unit] + gate(0, unit) * gate(2, unit);
  }

  WORDKILN_DEVICE float normalised_cell(int unit) const {
    return (fresh_cell(unit) - statistics_[kCellMean]) * statistics_[kCellScale];
  }

  // The gradient of the new h; grad_h keeps what goes around the step.
  WORDKILN_DEVICE float take_grad_h(int unit) {
    const float share = kept_share(zoneout_, a_.step, row_, 0, unit);
    const float grad = grad_h_[unit] + (grad_out_ == nullptr ? 0.0f : device::to_float(grad_out_[unit]));
    grad_h_[unit] = share * grad;
    return (1.0f - share) * grad;
  }

  // Of a pre-activation, and of the product that it takes, before the norm.
  WORDKILN_DEVICE void put_grads(int gate, int unit, float of_gate, float of_product) {
    grad_gates_[gate * hidden_ + unit] = device::from_float<T>(of_gate);
    grad_products_[gate * hidden_ + unit] = device::from_float<T>(of_product);
  }

  // body(element, its gradient times the gain, itself normalised) for each product of this thread's units.
  template <typename Body>
  WORDKILN_DEVICE void for_products(Body body) const {
    for_units(hidden_, [&](int unit) {
      WORDKILN_UNROLL
      for (int g = 0; g < kGates; ++g) {
        const int at = g * hidden_ + unit;
        body(at, device::to_float(grad_products_[at]) * device::to_float(gain_[at]), device::to_float(normalised_[at]));
      }
    });
  }

  const CellBackward& a_;
  const ZoneoutParams& zoneout_;
  const int row_, hidden_;
  const T *activations_, *normalised_, *hidden_new_, *gain_, *gain_c_, *bias_c_, *h_before_, *grad_out_;
  const float *statistics_, *c_before_;
  float *grad_h_, *grad_c_, *scratch_, *grad_gain_, *grad_gain_c_, *grad_bias_c_, *grad_bias_new_;
  T *grad_gates_, *grad_products_;
};

template <typename T, int kGates>
WORDKILN_KERNEL(kCellThreads)
cell_backward_kernel(const CellBackward a, const ZoneoutParams zoneout) {
  auto& s = device::shared<CellShared>();
  const int at = device::block_index();
  CellBackwardRow<T, kGates> row(a, zoneout, at);
  if (a.lengths != nullptr && a.step >= a.lengths[at]) return row.skip();
  if constexpr (kGates == 4) {
    row.back_to_gates(s);
  } else {
    row.back_through_gru();
  }
  if (row.has_norms()) row.back_through_norm(s);
}

template <typename T>
void launch_cell_backward(const CellBackward& a, Stream stream) {
  const auto kernel = a.kind == Recurrence::kLstm ? &cell_backward_kernel<T, 4> : &cell_backward_kernel<T, 3>;
  device::launch(kernel, static_cast<int>(a.sizes.batch), kCellThreads, sizeof(CellShared), stream,
                 device::Launch::kIndependent, a, zoneout_params(a.zoneout));
}

}  // namespace wordkiln::cuda
