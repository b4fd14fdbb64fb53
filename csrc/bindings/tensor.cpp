#include "bindings/tensor.h"

#include <pybind11/gil_safe_call_once.h>

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

std::optional<DType> to_dtype(const dlpack::DataType& dtype) {
  if (dtype.code == dlpack::kFloat && dtype.bits == 32) return DType::kFloat32;
  if (dtype.code == dlpack::kFloat && dtype.bits == 64) return DType::kFloat64;
  if (dtype.code == dlpack::kBfloat && dtype.bits == 16) return DType::kBfloat16;
  return std::nullopt;
}

const void* view_list(const char* name, py::handle tensor, int64_t count, uint8_t code) {
  if (tensor.is_none()) return nullptr;
  const dlpack::Tensor list = view(name, tensor, 1);
  if (list.dtype.code != code || list.dtype.bits != 64) {
    refuse(name, code == dlpack::kInt ? "dtype must be int64" : "dtype must be float64");
  }
  if (list.shape[0] != count || (count > 1 && list.strides[0] != 1)) {
    refuse(name, "must be " + std::to_string(count) + " contiguous numbers");
  }
  return list.data;
}

}  // namespace

TensorView view_tensor(const char* name, py::handle tensor, size_t dimensions) {
  const dlpack::Tensor x = view(name, tensor, dimensions);
  const std::optional<DType> dtype = to_dtype(x.dtype);
  if (!dtype) refuse(name, "dtype must be float32, float64 or bfloat16");
  return {x.data, *dtype, {x.shape, dimensions}, {x.strides, dimensions}};
}

std::optional<TensorView> try_view_tensor(py::handle tensor, size_t dimensions) {
  const py::handle type = py::type::handle_of(tensor);
  if (!type.is(torch().tensor) && !type.is(torch().parameter)) return std::nullopt;
  dlpack::Tensor x;
  if (torch().api->view(tensor.ptr(), &x) != 0) {
    PyErr_Clear();  // a wrapper of torch.func, say, which is of class torch.Tensor and has no memory
    return std::nullopt;
  }
  const std::optional<DType> dtype = to_dtype(x.dtype);
  if (!dtype || x.device.type != dlpack::kCpu || static_cast<size_t>(x.ndim) != dimensions) return std::nullopt;
  return TensorView{static_cast<char*>(x.data) + x.byte_offset, *dtype, {x.shape, dimensions}, {x.strides, dimensions}};
}

const int64_t* view_integers(const char* name, py::handle tensor, int64_t count) {
  return static_cast<const int64_t*>(view_list(name, tensor, count, dlpack::kInt));
}

const double* view_doubles(const char* name, py::handle tensor, int64_t count) {
  return static_cast<const double*>(view_list(name, tensor, count, dlpack::kFloat));
}

}  // namespace wordkiln::bindings
