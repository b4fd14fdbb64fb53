// wordkiln._kernels: one file of bindings per header of include/. No mathematics here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings/register.h"
#include "wordkiln/isa.h"
#include "wordkiln/threads.h"

namespace py = pybind11;

namespace {

void raise_as_argument_error(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const std::invalid_argument& e) {
    const py::object type = py::module_::import("wordkiln.errors").attr("ArgumentError");
    py::set_error(type, e.what());
  }
}

}  // namespace

PYBIND11_MODULE(_kernels, m, py::mod_gil_not_used()) {
  m.doc() = "Wordkiln's C++ kernels. Callers pass addresses and sizes; wordkiln.ops and wordkiln.runtime check them.";
  py::register_local_exception_translator(&raise_as_argument_error);

  m.def("available_isas", &wordkiln::available_isas, "Instruction sets this machine can run, slowest first.");
  m.def("current_isa", &wordkiln::current_isa,
        "The instruction set in use (environment variable WORDKILN_ISA forces one).");
  m.def("set_num_threads", &wordkiln::set_num_threads, py::arg("threads"));
  m.def("get_num_threads", &wordkiln::get_num_threads);
  wordkiln::bindings::register_activation(m);
  wordkiln::bindings::register_attention(m);
  wordkiln::bindings::register_cross_entropy(m);
  wordkiln::bindings::register_decoder(m);
  wordkiln::bindings::register_elementwise(m);
  wordkiln::bindings::register_linear(m);
  wordkiln::bindings::register_norm(m);
  wordkiln::bindings::register_recurrent_cell(m);
  wordkiln::bindings::register_recurrent_step(m);
  wordkiln::bindings::register_rnn(m);
  wordkiln::bindings::register_rotary(m);
  wordkiln::bindings::register_shapes(m);
}
