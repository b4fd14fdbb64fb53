#include "wordkiln/cuda/recurrent.h"

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <functional>
#include <stdexcept>
#include <tuple>

#include "bindings/checks.h"
#include "bindings/cuda/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

using Sizes = std::tuple<int64_t, int64_t, int64_t>;
using Allocate = std::function<uintptr_t(int64_t)>;

Recurrence parse_gated(const std::string& name) {
  const Recurrence kind = parse_recurrence(name);
  if (gates_count(kind) == 1) throw std::invalid_argument("kind='" + name + "': must be 'lstm' or 'gru' on a GPU");
  return kind;
}

// The kernels count steps, rows, columns and blocks in 32 bits.
RecurrentSizes checked(const Sizes& sizes) {
  const auto [steps, batch, hidden] = sizes;
  count_elements("out", {4, steps, batch, hidden});
  constexpr int64_t kMost = int64_t{1} << 28;
  if (steps > kMost || batch > kMost || hidden > kMost || batch * hidden > int64_t{1} << 36) {
    throw std::invalid_argument("sizes: steps, batch and hidden must be at most 2^28, batch * hidden at most 2^36");
  }
  return {steps, batch, hidden};
}

// The elements of each array of a layer; 0 for what its recurrence does not have.
struct Counts {
  int64_t gates, states, cells, hidden_new, h, c;

  Counts(Recurrence kind, const RecurrentSizes& s)
      : gates(gates_count(kind) * s.steps * s.batch * s.hidden),
        states(s.steps * s.batch * s.hidden),
        cells(kind == Recurrence::kLstm ? states : 0),
        hidden_new(kind == Recurrence::kGru ? states : 0),
        h(s.batch * s.hidden),
        c(kind == Recurrence::kLstm ? h : 0) {}
};

void* checked_weight(const char* name, uintptr_t address, const RecurrentSizes& s) {
  if (address % 16 != 0) throw std::invalid_argument(std::string(name) + ": address must be a multiple of 16");
  return to_pointer(name, address, s.hidden);
}

float* to_floats(const char* name, uintptr_t address, int64_t elements) {
  return static_cast<float*>(to_pointer(name, address, elements));
}

void* allocated(const Allocate& allocate, int64_t bytes) {
  return bytes == 0 ? nullptr : to_pointer("workspace", allocate(bytes), bytes);
}

void forward(const std::string& dtype, const std::string& kind, uintptr_t gates, uintptr_t weight_hh,
             uintptr_t bias_new, uintptr_t h, uintptr_t c, uintptr_t lengths, uintptr_t out, uintptr_t cells,
             uintptr_t hidden_new, const Sizes& sizes, bool keep, const Allocate& allocate, uintptr_t stream) {
  const cuda::DType type = parse_cuda_dtype(dtype);
  const RecurrentSizes s = checked(sizes);
  const Recurrence recurrence = parse_gated(kind);
  const Counts count(recurrence, s);
  const cuda::LayerForward arguments = {
      .kind = recurrence,
      .gates = to_pointer("gates", gates, count.gates),
      .weight_hh = checked_weight("weight_hh", weight_hh, s),
      .bias_new = to_pointer("bias_new", bias_new, 0),
      .h = to_floats("h", h, count.h),
      .c = to_floats("c", c, count.c),
      .lengths = static_cast<const int64_t*>(to_pointer("lengths", lengths, 0)),
      .out = to_pointer("out", out, count.states),
      .cells = to_floats("cells", cells, keep ? count.cells : 0),
      .hidden_new = to_pointer("hidden_new", hidden_new, keep ? count.hidden_new : 0),
      .sizes = s,
      .keep = keep,
  };
  void* workspace = allocated(allocate, cuda::recurrent_forward_workspace(type, arguments));
  const py::gil_scoped_release release;
  cuda::recurrent_forward(type, arguments, workspace, reinterpret_cast<void*>(stream));
}

void backward(const std::string& dtype, const std::string& kind, uintptr_t gates, uintptr_t grad_gates,
              uintptr_t hidden_new, uintptr_t grad_hidden_new, uintptr_t weight_hh_t, uintptr_t h0, uintptr_t c0,
              uintptr_t lengths, uintptr_t out, uintptr_t cells, uintptr_t grad_out, uintptr_t grad_h, uintptr_t grad_c,
              const Sizes& sizes, const Allocate& allocate, uintptr_t stream) {
  const cuda::DType type = parse_cuda_dtype(dtype);
  const RecurrentSizes s = checked(sizes);
  const Recurrence recurrence = parse_gated(kind);
  const Counts count(recurrence, s);
  const cuda::LayerBackward arguments = {
      .kind = recurrence,
      .gates = to_pointer("gates", gates, count.gates),
      .grad_gates = to_pointer("grad_gates", grad_gates, count.gates),
      .hidden_new = to_pointer("hidden_new", hidden_new, count.hidden_new),
      .grad_hidden_new = to_pointer("grad_hidden_new", grad_hidden_new, count.hidden_new),
      .weight_hh_t = checked_weight("weight_hh_t", weight_hh_t, s),
      .h0 = to_pointer("h0", h0, 0),
      .c0 = to_pointer("c0", c0, 0),
      .lengths = static_cast<const int64_t*>(to_pointer("lengths", lengths, 0)),
      .out = to_pointer("out", out, recurrence == Recurrence::kGru ? count.states : 0),
      .cells = to_floats("cells", cells, count.cells),
      .grad_out = to_pointer("grad_out", grad_out, 0),
      .grad_h = to_floats("grad_h", grad_h, count.h),
      .grad_c = to_floats("grad_c", grad_c, count.c),
      .sizes = s,
  };
  void* workspace = allocated(allocate, cuda::recurrent_backward_workspace(type, arguments));
  const py::gil_scoped_release release;
  cuda::recurrent_backward(type, arguments, workspace, reinterpret_cast<void*>(stream));
}

int64_t pitch(const std::string& dtype, int64_t hidden) { return cuda::weight_pitch(parse_cuda_dtype(dtype), hidden); }

}  // namespace

void register_cuda_recurrent(py::module_& m) {
  m.def("weight_pitch", &pitch, py::arg("dtype"), py::arg("hidden"), "Elements of a row of recurrent weights.");
  m.def("recurrent_forward", &forward, py::arg("dtype"), py::arg("kind"), py::arg("gates"), py::arg("weight_hh"),
        py::arg("bias_new"), py::arg("h"), py::arg("c"), py::arg("lengths"), py::arg("out"), py::arg("cells"),
        py::arg("hidden_new"), py::arg("sizes"), py::arg("keep"), py::kw_only(), py::arg("allocate"),
        py::arg("stream"));
  m.def("recurrent_backward", &backward, py::arg("dtype"), py::arg("kind"), py::arg("gates"), py::arg("grad_gates"),
        py::arg("hidden_new"), py::arg("grad_hidden_new"), py::arg("weight_hh_t"), py::arg("h0"), py::arg("c0"),
        py::arg("lengths"), py::arg("out"), py::arg("cells"), py::arg("grad_out"), py::arg("grad_h"), py::arg("grad_c"),
        py::arg("sizes"), py::kw_only(), py::arg("allocate"), py::arg("stream"));
}

}  // namespace wordkiln::bindings
