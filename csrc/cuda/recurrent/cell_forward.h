// A step forward with layer norms or zoneout.
#pragma once

#include "cuda/recurrent/cell.h"

namespace wordkiln::cuda {

// The arrays of one row at one step; kGates: 4 an LSTM, 3 a GRU.
template <typename T, int kGates>
class CellForwardRow {
 public:
  WORDKILN_DEVICE CellForwardRow(const CellForward& a, const ZoneoutParams& zoneout, int row)
      : a_(a),
        zoneout_(zoneout),
        row_(row),
        hidden_(static_cast<int>(a.sizes.hidden)),
        gain_(static_cast<const T*>(a.gain_hh)),
        bias_new_(static_cast<const T*>(a.bias_new)),
        gain_c_(static_cast<const T*>(a.gain_c)),
        bias_c_(static_cast<const T*>(a.bias_c)) {
    const int64_t at = a.step * a.sizes.batch + row, kept = a.keep ? at : row, width = int64_t{kGates} * hidden_;
    gates_ = behind<T>(a.gates, at * width);
    products_ = behind<T>(a.products, kept * width);
    h_ = behind<float>(a.h, row * a.sizes.hidden);
    c_ = behind<float>(a.c, row * a.sizes.hidden);
    out_ = behind<T>(a.out, at * hidden_);
    activations_ = behind<T>(a.activations, kept * width);
    cells_ = behind<float>(a.cells, kept * hidden_);
    hidden_new_ = behind<T>(a.hidden_new, kept * hidden_);
    statistics_ = behind<float>(a.statistics, kept * kCellStatistics);
  }

  WORDKILN_DEVICE bool has_norms() const { return gain_ != nullptr; }

  // Behind its length: the state stays, and what is kept says the same each time.
  WORDKILN_DEVICE void skip() {
    clear_row(out_, hidden_);
    clear_row(activations_, kGates * hidden_);
    if constexpr (kGates == 4) {
      clear_row(cells_, hidden_);
    } else {
      clear_row(hidden_new_, hidden_);
    }
  }

  WORDKILN_DEVICE void normalise_products(CellShared& s) {
    const float width = static_cast<float>(kGates * hidden_);
    const float mean = block_sum(s, 0, sum_products([](float x) { return x; })) / width;
    const float variance = block_sum(s, 1, sum_products([&](float x) { return (x - mean) * (x - mean); })) / width;
    const float scale = 1.0f / sqrtf(variance + static_cast<float>(a_.eps));
    if (device::thread_index() == 0) statistics_[kProductScale] = scale;
    for_units(hidden_, [&](int unit) {
      WORDKILN_UNROLL
      for (int g = 0; g < kGates; ++g) {
        T& product = products_[g * hidden_ + unit];
        product = device::from_float<T>((device::to_float(product) - mean) * scale);
      }
    });
  }

  // The cells before zoneout and the norm.
  WORDKILN_DEVICE void renew_cells() {
    for_units(hidden_, [&](int unit) {
      float inner[4];
      WORDKILN_UNROLL
      for (int g = 0; g < 4; ++g) {
        inner[g] = pre_activation(g, unit);
        activations_[g * hidden_ + unit] = device::from_float<T>(inner[g]);
      }
      cells_[unit] = sigmoid<T>(inner[1]) * c_[unit] + sigmoid<T>(inner[0]) * hyperbolic_tangent<T>(inner[2]);
    });
  }

  WORDKILN_DEVICE void put_out_cells(CellShared& s) {
    float mean = 0.0f, scale = 1.0f;
    if (has_norms()) {
      const float width = static_cast<float>(hidden_);
      mean = block_sum(s, 2, sum_cells([](float x) { return x; })) / width;
      scale = 1.0f / sqrtf(block_sum(s, 3, sum_cells([&](float x) { return (x - mean) * (x - mean); })) / width +
                           static_cast<float>(a_.eps));
      if (device::thread_index() == 0) {
        statistics_[kCellMean] = mean;
        statistics_[kCellScale] = scale;
      }
    }
    for_units(hidden_, [&](int unit) {
      const float fresh = cells_[unit];
      float shown = fresh;
      if (has_norms()) {
        shown = (fresh - mean) * scale * device::to_float(gain_c_[unit]) + device::to_float(bias_c_[unit]);
      }
      const float output = sigmoid<T>(device::to_float(activations_[3 * hidden_ + unit]));
      put_out(unit, output * hyperbolic_tangent<T>(shown));
      const float c = mix(kept_share(zoneout_, a_.step, row_, 1, unit), c_[unit], fresh);
      c_[unit] = c;
      cells_[unit] = c;
    });
  }

  WORDKILN_DEVICE void finish_gru() {
    for_units(hidden_, [&](int unit) {
      float inner[3] = {pre_activation(0, unit), pre_activation(1, unit), device::to_float(gates_[2 * hidden_ + unit])};
      float hidden_new = recurrent(2, unit);
      if (bias_new_ != nullptr) hidden_new += device::to_float(bias_new_[unit]);
      inner[2] += sigmoid<T>(inner[0]) * hidden_new;
      WORDKILN_UNROLL
      for (int g = 0; g < 3; ++g) activations_[g * hidden_ + unit] = device::from_float<T>(inner[g]);
      hidden_new_[unit] = device::from_float<T>(hidden_new);
      const float update = sigmoid<T>(inner[1]), fresh = hyperbolic_tangent<T>(inner[2]);
      put_out(unit, fresh + update * (h_[unit] - fresh));
    });
  }

 private:
  template <typename Of>
  WORDKILN_DEVICE float sum_products(Of of) const {
    float sum = 0.0f;
    for_units(hidden_, [&](int unit) {
      WORDKILN_UNROLL
      for (int g = 0; g < kGates; ++g) sum += of(device::to_float(products_[g * hidden_ + unit]));
    });
    return sum;
  }

  template <typename Of>
  WORDKILN_DEVICE float sum_cells(Of of) const {
    float sum = 0.0f;
    for_units(hidden_, [&](int unit) { sum += of(cells_[unit]); });
    return sum;
  }

  // What W_hh h gives to a gate.
  WORDKILN_DEVICE float recurrent(int gate, int unit) const {
    const float product = device::to_float(products_[gate * hidden_ + unit]);
    return gain_ == nullptr ? product : product * device::to_float(gain_[gate * hidden_ + unit]);
  }

  WORDKILN_DEVICE float pre_activation(int gate, int unit) const {
    return device::to_float(gates_[gate * hidden_ + unit]) + recurrent(gate, unit);
  }

  WORDKILN_DEVICE void put_out(int unit, float fresh) {
    const float h = mix(kept_share(zoneout_, a_.step, row_, 0, unit), h_[unit], fresh);
    h_[unit] = h;
    out_[unit] = device::from_float<T>(h);
  }

  const CellForward& a_;
  const ZoneoutParams& zoneout_;
  const int row_, hidden_;
  const T *gates_, *gain_, *bias_new_, *gain_c_, *bias_c_;
  T *products_, *out_, *activations_, *hidden_new_;
  float *h_, *c_, *cells_, *statistics_;
};

template <typename T, int kGates>
WORDKILN_KERNEL(kCellThreads)
cell_forward_kernel(const CellForward a, const ZoneoutParams zoneout) {
  auto& s = device::shared<CellShared>();
  const int at = device::block_index();
  CellForwardRow<T, kGates> row(a, zoneout, at);
  if (a.lengths != nullptr && a.step >= a.lengths[at]) return row.skip();
  if (row.has_norms()) row.normalise_products(s);
  if constexpr (kGates == 4) {
    row.renew_cells();
    row.put_out_cells(s);
  } else {
    row.finish_gru();
  }
}

template <typename T>
void launch_cell_forward(const CellForward& a, Stream stream) {
  const auto kernel = a.kind == Recurrence::kLstm ? &cell_forward_kernel<T, 4> : &cell_forward_kernel<T, 3>;
  device::launch(kernel, static_cast<int>(a.sizes.batch), kCellThreads, sizeof(CellShared), stream,
                 device::Launch::kIndependent, a, zoneout_params(a.zoneout));
}

}  // namespace wordkiln::cuda
