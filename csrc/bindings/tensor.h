// torch tensors as bindings read them, without a torch header. For ops whose kernel can be quicker than Python's
// reading of addresses, sizes and strides (10 us for attention); the others take these as numbers, from
// numpy as well. Making tensors here was no quicker (1.1 us for 1.0 by torch.empty_like).
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <span>

#include "wordkiln/dtype.h"

namespace wordkiln::bindings {

// Borrowed: valid while the tensor lives and keeps its shape.
struct TensorView {
  void* data;
  DType dtype;
  std::span<const int64_t> shape, strides;  // strides in elements
};

// A float32, float64 or bfloat16 tensor on the CPU with so many dimensions; refuses everything else.
TensorView view_tensor(const char* name, pybind11::handle tensor, size_t dimensions);

// The same, where it is one and is of class torch.Tensor or torch.nn.Parameter itself; else nothing, and no error.
std::optional<TensorView> try_view_tensor(pybind11::handle tensor, size_t dimensions);

// A contiguous int64 or float64 tensor of one dimension on the CPU as a pointer (its elements are `count`, refused
// otherwise); null for None.
const int64_t* view_integers(const char* name, pybind11::handle tensor, int64_t count);
const double* view_doubles(const char* name, pybind11::handle tensor, int64_t count);

}  // namespace wordkiln::bindings
