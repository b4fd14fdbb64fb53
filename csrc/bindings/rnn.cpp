#include "wordkiln/rnn.h"

#include <pybind11/stl.h>

#include <cstring>
#include <stdexcept>
#include <tuple>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {

namespace {

using Sizes = std::tuple<int64_t, int64_t, int64_t>;

// The element counts of each array of a layer; 0 for what its recurrence does not have.
struct Counts {
  int64_t gates, weight, states, cells, hidden_new, h, c;
};

Counts count_layer(Recurrence kind, const RecurrentSizes& s) {
  const int64_t gates = gates_count(kind), states = count_elements("out", {s.steps, s.batch, s.hidden});
  const int64_t state = count_elements("h0", {s.batch, s.hidden});
  return {
      .gates = count_elements("gates", {gates, s.steps, s.batch, s.hidden}),
      .weight = count_elements("weight_hh", {gates, s.hidden, s.hidden}),
      .states = states,
      .cells = kind == Recurrence::kLstm ? states : 0,
      .hidden_new = kind == Recurrence::kGru ? states : 0,
      .h = state,
      .c = kind == Recurrence::kLstm ? state : 0,
  };
}

const int64_t* to_lengths(uintptr_t address, const RecurrentSizes& sizes) {
  const auto* lengths = static_cast<const int64_t*>(to_pointer("lengths", address, 0));
  for (int64_t row = 0; lengths != nullptr && row < sizes.batch; ++row) {
    if (lengths[row] < 0 || lengths[row] > sizes.steps) {
      throw std::invalid_argument("lengths[" + std::to_string(row) + "]=" + std::to_string(lengths[row]) +
                                  ": must be 0 to " + std::to_string(sizes.steps));
    }
  }
  return lengths;
}

RecurrentSizes to_sizes(const Sizes& sizes) { return {std::get<0>(sizes), std::get<1>(sizes), std::get<2>(sizes)}; }

// Each row's hidden state after its last step: outputs behind it are 0.
void copy_last(const RecurrentForward& x, size_t element, void* to) {
  const size_t row_bytes = static_cast<size_t>(x.sizes.hidden) * element;
  const auto row_of = [&](const void* from, int64_t row) {
    return static_cast<const char*>(from) + static_cast<size_t>(row) * row_bytes;
  };
  for (int64_t row = 0; row < x.sizes.batch; ++row) {
    const int64_t steps = x.lengths == nullptr ? x.sizes.steps : x.lengths[row];
    const void* from = steps == 0 ? row_of(x.h0, row) : row_of(x.out, (steps - 1) * x.sizes.batch + row);
    std::memcpy(static_cast<char*>(to) + static_cast<size_t>(row) * row_bytes, from, row_bytes);
  }
}

void forward(const std::string& dtype, const std::string& kind, uintptr_t gates, uintptr_t weight_hh, uintptr_t bias_ih,
             uintptr_t bias_hh, uintptr_t h0, uintptr_t c0, uintptr_t lengths, uintptr_t out, uintptr_t cells,
             uintptr_t hidden_new, const Sizes& sizes, bool keep, uintptr_t h) {
  const RecurrentSizes s = to_sizes(sizes);
  const Recurrence recurrence = parse_recurrence(kind);
  const Counts count = count_layer(recurrence, s);
  const RecurrentForward arguments = {
      .kind = recurrence,
      .gates = to_pointer("gates", gates, count.gates),
      .weight_hh = to_pointer("weight_hh", weight_hh, count.weight),
      .bias_ih = to_pointer("bias_ih", bias_ih, 0),
      .bias_hh = to_pointer("bias_hh", bias_hh, 0),
      .h0 = to_pointer("h0", h0, count.h),
      .c0 = to_pointer("c0", c0, count.c),
      .lengths = to_lengths(lengths, s),
      .out = to_pointer("out", out, count.states),
      .cells = to_pointer("cells", cells, keep ? count.cells : count.c),
      .hidden_new = to_pointer("hidden_new", hidden_new, keep ? count.hidden_new : 0),
      .sizes = s,
      .keep = keep,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  recurrent_forward(type, arguments);
  if (h != 0) copy_last(arguments, size_of(type), to_pointer("h", h, 0));
}

void backward(const std::string& dtype, const std::string& kind, uintptr_t activations, uintptr_t grad_gates,
              uintptr_t hidden_new, uintptr_t grad_hidden_new, uintptr_t weight_hh, uintptr_t h0, uintptr_t c0,
              uintptr_t lengths, uintptr_t out, uintptr_t cells, uintptr_t grad_out, uintptr_t grad_h, uintptr_t grad_c,
              uintptr_t grad_bias, const Sizes& sizes) {
  const RecurrentSizes s = to_sizes(sizes);
  const Recurrence recurrence = parse_recurrence(kind);
  const Counts count = count_layer(recurrence, s);
  const bool is_lstm = recurrence == Recurrence::kLstm, is_plain = gates_count(recurrence) == 1;
  const RecurrentBackward arguments = {
      .kind = recurrence,
      .activations = to_pointer("activations", activations, is_plain ? 0 : count.gates),
      .grad_gates = to_pointer("grad_gates", grad_gates, count.gates),
      .hidden_new = to_pointer("hidden_new", hidden_new, count.hidden_new),
      .grad_hidden_new = to_pointer("grad_hidden_new", grad_hidden_new, count.hidden_new),
      .weight_hh = to_pointer("weight_hh", weight_hh, count.weight),
      .h0 = to_pointer("h0", h0, recurrence == Recurrence::kGru ? count.h : 0),
      .c0 = to_pointer("c0", c0, count.c),
      .lengths = to_lengths(lengths, s),
      .out = to_pointer("out", out, is_lstm ? 0 : count.states),
      .cells = to_pointer("cells", cells, count.cells),
      .grad_out = to_pointer("grad_out", grad_out, 0),
      .grad_h = to_pointer("grad_h", grad_h, count.h),
      .grad_c = to_pointer("grad_c", grad_c, count.c),
      .grad_bias = to_pointer("grad_bias", grad_bias, 0),
      .sizes = s,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  recurrent_backward(type, arguments);
}

}  // namespace

void register_rnn(py::module_& m) {
  m.def("has_recurrent", [](const std::string& dtype) { return has_recurrent(parse_dtype(dtype)); }, py::arg("dtype"));
  m.def("recurrent_forward", &forward, py::arg("dtype"), py::arg("kind"), py::arg("gates"), py::arg("weight_hh"),
        py::arg("bias_ih"), py::arg("bias_hh"), py::arg("h0"), py::arg("c0"), py::arg("lengths"), py::arg("out"),
        py::arg("cells"), py::arg("hidden_new"), py::arg("sizes"), py::arg("keep"), py::arg("h") = 0);
  m.def("recurrent_backward", &backward, py::arg("dtype"), py::arg("kind"), py::arg("activations"),
        py::arg("grad_gates"), py::arg("hidden_new"), py::arg("grad_hidden_new"), py::arg("weight_hh"), py::arg("h0"),
        py::arg("c0"), py::arg("lengths"), py::arg("out"), py::arg("cells"), py::arg("grad_out"), py::arg("grad_h"),
        py::arg("grad_c"), py::arg("grad_bias"), py::arg("sizes"));
}

}  // namespace wordkiln::bindings
