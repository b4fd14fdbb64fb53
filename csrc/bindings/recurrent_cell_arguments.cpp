#include "bindings/recurrent_cell_arguments.h"

#include <stdexcept>

#include "bindings/checks.h"

namespace wordkiln::bindings {
namespace {

Recurrence parse_gated(const std::string& name) {
  const Recurrence kind = parse_recurrence(name);
  if (gates_count(kind) == 1) throw std::invalid_argument("kind='" + name + "': must be 'lstm' or 'gru'");
  return kind;
}

RecurrentSizes checked(Recurrence kind, const CellSizes& sizes, int64_t step) {
  const auto [steps, batch, hidden] = sizes;
  count_elements("gates", {gates_count(kind), steps, batch, hidden});
  if (step < 0 || step >= steps) {
    throw std::invalid_argument("step=" + std::to_string(step) + ": must be 0 to " + std::to_string(steps - 1));
  }
  return {steps, batch, hidden};
}

Zoneout checked(const CellZoneout& zoneout) {
  const auto [h, c, draws, seed, offset] = zoneout;
  for (const double share : {h, c}) {
    if (!(share >= 0 && share < 1)) {
      throw std::invalid_argument("zoneout=" + std::to_string(share) + ": must be at least 0 and less than 1");
    }
  }
  return {.h = h, .c = c, .draws = draws, .seed = seed, .offset = offset};
}

// Hands out the addresses in their order. An array is `needed` where there are elements and the recurrence has it.
class Arrays {
 public:
  Arrays(const uintptr_t* addresses, const RecurrentSizes& s) : next_(addresses), elements_(s.batch * s.hidden) {}

  void* take(const char* name, bool needed = true) { return to_pointer(name, *next_++, needed ? elements_ : 0); }

 private:
  const uintptr_t* next_;
  int64_t elements_;
};

}  // namespace

CellForward to_cell_forward(const std::string& kind, const CellForwardArrays& addresses, const CellSizes& sizes,
                            int64_t step, const CellZoneout& zoneout, double eps, bool keep) {
  const Recurrence recurrence = parse_gated(kind);
  const RecurrentSizes s = checked(recurrence, sizes, step);
  const bool is_lstm = recurrence == Recurrence::kLstm, has_norms = addresses[2] != 0;
  if (has_norms && !(eps > 0)) throw std::invalid_argument("eps=" + std::to_string(eps) + ": must be more than 0");
  Arrays arrays(addresses.data(), s);
  // Braces keep the order of the calls.
  return {
      .kind = recurrence,
      .gates = arrays.take("gates"),
      .products = arrays.take("products"),
      .gain_hh = arrays.take("gain_hh", false),
      .bias_new = arrays.take("bias_new", false),
      .gain_c = arrays.take("gain_c", is_lstm && has_norms),
      .bias_c = arrays.take("bias_c", is_lstm && has_norms),
      .lengths = static_cast<const int64_t*>(arrays.take("lengths", false)),
      .h = arrays.take("h"),
      .c = arrays.take("c", is_lstm),
      .out = arrays.take("out"),
      .activations = arrays.take("activations"),
      .cells = arrays.take("cells", is_lstm),
      .hidden_new = arrays.take("hidden_new", !is_lstm),
      .statistics = arrays.take("statistics", has_norms),
      .sizes = s,
      .step = step,
      .zoneout = checked(zoneout),
      .eps = eps,
      .keep = keep,
  };
}

CellBackward to_cell_backward(const std::string& kind, const CellBackwardArrays& addresses, const CellSizes& sizes,
                              int64_t step, const CellZoneout& zoneout) {
  const Recurrence recurrence = parse_gated(kind);
  const RecurrentSizes s = checked(recurrence, sizes, step);
  const bool is_lstm = recurrence == Recurrence::kLstm, has_norms = addresses[4] != 0,
             has_cell_norm = is_lstm && has_norms;
  Arrays arrays(addresses.data(), s);
  return {
      .kind = recurrence,
      .activations = arrays.take("activations"),
      .normalised = arrays.take("normalised", has_norms),
      .hidden_new = arrays.take("hidden_new", !is_lstm),
      .statistics = arrays.take("statistics", has_norms),
      .gain_hh = arrays.take("gain_hh", false),
      .gain_c = arrays.take("gain_c", has_cell_norm),
      .bias_c = arrays.take("bias_c", has_cell_norm),
      .lengths = static_cast<const int64_t*>(arrays.take("lengths", false)),
      .h0 = arrays.take("h0", !is_lstm),
      .c0 = arrays.take("c0", is_lstm),
      .out = arrays.take("out", !is_lstm),
      .cells = arrays.take("cells", is_lstm),
      .grad_out = arrays.take("grad_out", false),
      .grad_h = arrays.take("grad_h"),
      .grad_c = arrays.take("grad_c", is_lstm),
      .scratch = arrays.take("scratch", is_lstm),
      .grad_gates = arrays.take("grad_gates"),
      .grad_products = arrays.take("grad_products"),
      .grad_gain_hh = arrays.take("grad_gain_hh", has_norms),
      .grad_gain_c = arrays.take("grad_gain_c", has_cell_norm),
      .grad_bias_c = arrays.take("grad_bias_c", has_cell_norm),
      .grad_bias_new = arrays.take("grad_bias_new", !is_lstm),
      .sizes = s,
      .step = step,
      .zoneout = checked(zoneout),
  };
}

}  // namespace wordkiln::bindings
