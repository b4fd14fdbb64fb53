#include "wordkiln/recurrent_step.h"

#include <stdexcept>
#include <string>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

RecurrentStep make(const std::string& kind, const std::string& storage) {
  const Recurrence recurrence = parse_recurrence(kind);
  if (storage == "float32") return {recurrence, WeightStorage::kFloat32};
  if (storage == "bfloat16") return {recurrence, WeightStorage::kBfloat16};
  if (storage == "int8") return {recurrence, WeightStorage::kInt8};
  throw std::invalid_argument("storage='" + storage + "': must be 'float32', 'bfloat16' or 'int8'");
}

const float* to_floats(const char* name, uintptr_t address, int64_t elements) {
  return static_cast<const float*>(to_pointer(name, address, elements));
}

void add_layer(RecurrentStep& self, uintptr_t weight_ih, uintptr_t weight_hh, uintptr_t bias_ih, uintptr_t bias_hh,
               int64_t inputs, int64_t hidden) {
  const int64_t gates = gates_count(self.kind());
  const int64_t from_inputs = count_elements("weight_ih", {gates, hidden, inputs});
  const int64_t from_hidden = count_elements("weight_hh", {gates, hidden, hidden});
  self.add_layer({
      .weight_ih = to_floats("weight_ih", weight_ih, from_inputs),
      .weight_hh = to_floats("weight_hh", weight_hh, from_hidden),
      .bias_ih = to_floats("bias_ih", bias_ih, 0),
      .bias_hh = to_floats("bias_hh", bias_hh, 0),
      .inputs = inputs,
      .hidden = hidden,
  });
}

// A state's h and c.
struct State {
  float *h, *c;
};

State to_state(const RecurrentStep& self, uintptr_t h, uintptr_t c, int64_t batch) {
  const int64_t elements = count_elements("h", {self.layers(), batch, self.hidden()});
  return {static_cast<float*>(to_pointer("h", h, elements)),
          static_cast<float*>(to_pointer("c", c, self.kind() == Recurrence::kLstm ? elements : 0))};
}

void step(const RecurrentStep& self, uintptr_t x, uintptr_t h, uintptr_t c, int64_t batch) {
  const State state = to_state(self, h, c, batch);
  const float* input = to_floats("x", x, count_elements("x", {batch, self.inputs()}));
  const py::gil_scoped_release release;
  self.step(input, state.h, state.c, batch);
}

void read(const RecurrentStep& self, uintptr_t x, uintptr_t h, uintptr_t c, uintptr_t out, int64_t steps,
          int64_t batch) {
  const State state = to_state(self, h, c, batch);
  const float* input = to_floats("x", x, count_elements("x", {steps, batch, self.inputs()}));
  auto* outputs = static_cast<float*>(to_pointer("out", out, count_elements("out", {steps, batch, self.hidden()})));
  const py::gil_scoped_release release;
  self.read(input, state.h, state.c, outputs, steps, batch);
}

}  // namespace

void register_recurrent_step(py::module_& m) {
  // An ordinary metaclass: stubs cannot name pybind11's own.
  const auto metaclass = py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type));
  py::class_<RecurrentStep>(m, "RecurrentStep", metaclass)
      .def(py::init(&make), py::arg("kind"), py::arg("storage"))
      .def("add_layer", &add_layer, py::arg("weight_ih"), py::arg("weight_hh"), py::arg("bias_ih"), py::arg("bias_hh"),
           py::arg("inputs"), py::arg("hidden"))
      .def("step", &step, py::arg("x"), py::arg("h"), py::arg("c"), py::arg("batch"))
      .def("read", &read, py::arg("x"), py::arg("h"), py::arg("c"), py::arg("out"), py::arg("steps"), py::arg("batch"))
      .def_property_readonly("layers", &RecurrentStep::layers)
      .def_property_readonly("inputs", &RecurrentStep::inputs)
      .def_property_readonly("hidden", &RecurrentStep::hidden)
      .def_property_readonly("bytes", &RecurrentStep::bytes);
}

}  // namespace wordkiln::bindings
