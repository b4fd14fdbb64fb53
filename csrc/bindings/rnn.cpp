#include "wordkiln/rnn.h"

#include <pybind11/stl.h>

#include <tuple>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

using Sizes = std::tuple<int64_t, int64_t, int64_t>;

// The element counts of each array of a layer.
struct Counts {
  int64_t gates, weight, states, state;
};

Counts count_layer(const LstmSizes& s) {
  return {count_elements("gates", {4, s.steps, s.batch, s.hidden}),
          count_elements("weight_hh", {4, s.hidden, s.hidden}), count_elements("out", {s.steps, s.batch, s.hidden}),
          count_elements("h0", {s.batch, s.hidden})};
}

LstmSizes to_sizes(const Sizes& sizes) { return {std::get<0>(sizes), std::get<1>(sizes), std::get<2>(sizes)}; }

void forward(const std::string& dtype, uintptr_t gates, uintptr_t weight_hh, uintptr_t h0, uintptr_t c0, uintptr_t out,
             uintptr_t cells, const Sizes& sizes) {
  const LstmSizes s = to_sizes(sizes);
  const Counts count = count_layer(s);
  const LstmForward arguments = {
      .gates = to_pointer("gates", gates, count.gates),
      .weight_hh = to_pointer("weight_hh", weight_hh, count.weight),
      .h0 = to_pointer("h0", h0, count.state),
      .c0 = to_pointer("c0", c0, count.state),
      .out = to_pointer("out", out, count.states),
      .cells = to_pointer("cells", cells, count.states),
      .sizes = s,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  lstm_forward(type, arguments);
}

void backward(const std::string& dtype, uintptr_t activations, uintptr_t grad_gates, uintptr_t weight_hh, uintptr_t c0,
              uintptr_t cells, uintptr_t grad_out, uintptr_t grad_h, uintptr_t grad_c, const Sizes& sizes) {
  const LstmSizes s = to_sizes(sizes);
  const Counts count = count_layer(s);
  const LstmBackward arguments = {
      .activations = to_pointer("activations", activations, count.gates),
      .grad_gates = to_pointer("grad_gates", grad_gates, count.gates),
      .weight_hh = to_pointer("weight_hh", weight_hh, count.weight),
      .c0 = to_pointer("c0", c0, count.state),
      .cells = to_pointer("cells", cells, count.states),
      .grad_out = to_pointer("grad_out", grad_out, 0),
      .grad_h = to_pointer("grad_h", grad_h, count.state),
      .grad_c = to_pointer("grad_c", grad_c, count.state),
      .sizes = s,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  lstm_backward(type, arguments);
}

}  // namespace

void register_rnn(py::module_& m) {
  m.def("lstm_forward", &forward, py::arg("dtype"), py::arg("gates"), py::arg("weight_hh"), py::arg("h0"),
        py::arg("c0"), py::arg("out"), py::arg("cells"), py::arg("sizes"));
  m.def("lstm_backward", &backward, py::arg("dtype"), py::arg("activations"), py::arg("grad_gates"),
        py::arg("weight_hh"), py::arg("c0"), py::arg("cells"), py::arg("grad_out"), py::arg("grad_h"),
        py::arg("grad_c"), py::arg("sizes"));
}

}  // namespace wordkiln::bindings
