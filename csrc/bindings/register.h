// One function per file of bindings; module.cpp calls them.
#pragma once

#include <pybind11/pybind11.h>

namespace wordkiln::bindings {

void register_attention(pybind11::module_& m);
void register_elementwise(pybind11::module_& m);
void register_recurrent_step(pybind11::module_& m);
void register_rnn(pybind11::module_& m);

}  // namespace wordkiln::bindings
