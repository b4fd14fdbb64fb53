#include "bindings/tensor.h"

#include <pybind11/gil_safe_call_once.h>

#include <bit>
#include <stdexcept>
#include <string>

#include "bindings/dlpack.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

[[noreturn]] void refuse(const char* name, const std::string& why) {
  throw std::invalid_argument(std::string(name) + ": " + why);
}

struct Torch {
  py::object tensor, parameter;  // the classes
  const dlpack::ExchangeApi* api;
};

Torch find_torch() {
  constexpr const char* kCapsule = "dlpack_exchange_api";
  const py::module_ torch = py::module_::import("torch");
  const py::object tensor = torch.attr("Tensor");
  const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), kCapsule)) throw std::invalid_argument("torch: must be 2.10 or later");
  const auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), kCapsule));
  if (api->version.major != dlpack::kMajorVersion || api->view == nullptr) {
    throw std::invalid_argument("torch: speaks DLPack " + std::to_string(api->version.major) + ", must be 1");
  }
  return {tensor, torch.attr("nn").attr("Parameter"), api};
}

const Torch& torch() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Torch> storage;
  return storage.call_once_and_store_result(&find_torch).get_stored();
}

dlpack::Tensor view(const char* name, py::handle tensor, size_t dimensions) {
  if (!py::isinstance(tensor, torch().tensor)) refuse(name, "must be a torch.Tensor");
  dlpack::Tensor result;
  if (torch().api->view(tensor.ptr(), &result) != 0) throw py::error_already_set();
  if (static_cast<size_t>(result.ndim) != dimensions) {
    refuse(name, "has " + std::to_string(result.ndim) + " dimensions, must have " + std::to_string(dimensions));
  }
  if (result.device.type != dlpack::kCpu) refuse(name, "must be on the CPU");
  result.data = static_cast<char*>(result.data) + result.byte_offset;
  return result;
}

// With `count` elements in one dimension.
dlpack::Tensor view_list(const char* name, py::handle tensor, int64_t count) {
  const dlpack::Tensor list = view(name, tensor, 1);
  if (list.shape[0] != count) refuse(name, "must be " + std::to_string(count) + " numbers");
  return list;
}

void check_integers(const char* name, const dlpack::Tensor& x) {
  if (x.dtype.code != dlpack::kInt || x.dtype.bits != 64) refuse(name, "dtype must be int64");
}

double read(const void* numbers, DType dtype, int64_t i) {
  if (dtype == DType::kFloat64) return static_cast<const double*>(numbers)[i];
  if (dtype == DType::kFloat32) return static_cast<const float*>(numbers)[i];
  return std::bit_cast<float>(static_cast<uint32_t>(static_cast<const uint16_t*>(numbers)[i]) << 16);
}

}  // namespace

TensorView view_tensor(const char* name, py::handle tensor, size_t dimensions) {
  const dlpack::Tensor x = view(name, tensor, dimensions);
  const std::optional<DType> dtype = to_dtype(x.dtype);
  if (!dtype) refuse(name, "dtype must be float32, float64 or bfloat16");
  return {x.data, *dtype, {x.shape, dimensions}, {x.strides, dimensions}};
}

std::optional<dlpack::Tensor> try_view_tensor(py::handle tensor) {
  const py::handle type = py::type::handle_of(tensor);
  if (!type.is(torch().tensor) && !type.is(torch().parameter)) return std::nullopt;
  dlpack::Tensor x;
  if (torch().api->view(tensor.ptr(), &x) != 0) {
    PyErr_Clear();  // a wrapper of torch.func, say, which is of class torch.Tensor and has no memory
    return std::nullopt;
  }
  return x;
}

std::optional<DType> to_dtype(const dlpack::DataType& dtype) {
  if (dtype.code == dlpack::kFloat && dtype.bits == 32) return DType::kFloat32;
  if (dtype.code == dlpack::kFloat && dtype.bits == 64) return DType::kFloat64;
  if (dtype.code == dlpack::kBfloat && dtype.bits == 16) return DType::kBfloat16;
  return std::nullopt;
}

const int64_t* view_integers(const char* name, py::handle tensor, int64_t count) {
  if (tensor.is_none()) return nullptr;
  const dlpack::Tensor list = view_list(name, tensor, count);
  check_integers(name, list);
  if (count > 1 && list.strides[0] != 1) refuse(name, "must be contiguous");
  return static_cast<const int64_t*>(list.data);
}

IntegerRows view_integer_rows(const char* name, py::handle tensor, int64_t rows) {
  const dlpack::Tensor table = view(name, tensor, 2);
  check_integers(name, table);
  const int64_t columns = table.shape[1];
  if (table.shape[0] != rows) refuse(name, "must have " + std::to_string(rows) + " rows");
  if ((columns > 1 && table.strides[1] != 1) || (columns > 0 && rows > 1 && table.strides[0] != columns)) {
    refuse(name, "must be contiguous");
  }
  return {static_cast<const int64_t*>(table.data), columns};
}

std::vector<double> read_numbers(const char* name, py::handle tensor, int64_t count) {
  if (tensor.is_none()) return {};
  const dlpack::Tensor list = view_list(name, tensor, count);
  const std::optional<DType> dtype = to_dtype(list.dtype);
  if (!dtype) refuse(name, "dtype must be float32, float64 or bfloat16");
  std::vector<double> result(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) result[static_cast<size_t>(i)] = read(list.data, *dtype, i * list.strides[0]);
  return result;
}

}  // namespace wordkiln::bindings
