// One function per file of bindings; module.cpp calls them.
#pragma once

#include <pybind11/pybind11.h>

namespace wordkiln::bindings {

void register_activation(pybind11::module_& m);
void register_attention(pybind11::module_& m);
void register_cross_entropy(pybind11::module_& m);
void register_decoder(pybind11::module_& m);
void register_elementwise(pybind11::module_& m);
void register_linear(pybind11::module_& m);
void register_norm(pybind11::module_& m);
void register_recurrent_cell(pybind11::module_& m);
void register_recurrent_step(pybind11::module_& m);
void register_rnn(pybind11::module_& m);
void register_rotary(pybind11::module_& m);
void register_shapes(pybind11::module_& m);

}  // namespace wordkiln::bindings
