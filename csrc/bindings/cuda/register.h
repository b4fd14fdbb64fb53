// One function per file of bindings to the GPU kernels; both modules that hold them call all of these.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "wordkiln/cuda/runtime.h"

namespace wordkiln::bindings {

void register_cuda_runtime(pybind11::module_& m);
void register_cuda_attention(pybind11::module_& m);
void register_cuda_cross_entropy(pybind11::module_& m);
void register_cuda_recurrent(pybind11::module_& m);
void register_cuda_recurrent_cell(pybind11::module_& m);

// "float32", "bfloat16" or "float16".
cuda::DType parse_cuda_dtype(const std::string& name);

}  // namespace wordkiln::bindings
