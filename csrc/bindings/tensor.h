// torch tensors as bindings read them, without a torch header. For ops whose kernel can be quicker than Python's
// reading of addresses, sizes and strides (10 us for attention); the others take these as numbers, from
// numpy as well. Making tensors here was no quicker (1.1 us for 1.0 by torch.empty_like).
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "bindings/dlpack.h"
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

// Any tensor with memory of class torch.Tensor or torch.nn.Parameter itself; else nothing, and no error.
std::optional<dlpack::Tensor> try_view_tensor(pybind11::handle tensor);

// The kernels' name of a dtype, or nothing where they have none.
std::optional<DType> to_dtype(const dlpack::DataType& dtype);

// A contiguous int64 tensor of one dimension on the CPU as a pointer (its elements are `count`, refused otherwise);
// null for None.
const int64_t* view_integers(const char* name, pybind11::handle tensor, int64_t count);

// The same of a table with so many rows.
struct IntegerRows {
  const int64_t* data;
  int64_t columns;
};
IntegerRows view_integer_rows(const char* name, pybind11::handle tensor, int64_t rows);

// The `count` numbers of a tensor of one dimension on the CPU, of any dtype that kernels take; none for None.
std::vector<double> read_numbers(const char* name, pybind11::handle tensor, int64_t count);

}  // namespace wordkiln::bindings
