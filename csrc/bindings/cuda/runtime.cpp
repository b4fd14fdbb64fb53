#include "wordkiln/cuda/runtime.h"

#include <stdexcept>

#include "bindings/cuda/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

void raise_as_argument_error(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const std::invalid_argument& e) {
    const py::object type = py::module_::import("wordkiln.errors").attr("ArgumentError");
    py::set_error(type, e.what());
  }
}

int checked_capability(int device) {
  const int count = cuda::device_count();
  if (count == 0) throw cuda::Error("no CUDA device: " + cuda::why_no_device());
  if (device < 0 || device >= count) {
    throw std::invalid_argument("device=" + std::to_string(device) + ": must be 0 to " + std::to_string(count - 1));
  }
  return cuda::capability(device);
}

}  // namespace

cuda::DType parse_cuda_dtype(const std::string& name) {
  if (name == "float32") return cuda::DType::kFloat32;
  if (name == "bfloat16") return cuda::DType::kBfloat16;
  if (name == "float16") return cuda::DType::kFloat16;
  throw std::invalid_argument("dtype='" + name + "': must be 'float32', 'bfloat16' or 'float16'");
}

void register_cuda_runtime(py::module_& m) {
  py::register_local_exception_translator(&raise_as_argument_error);
  m.def("device_count", &cuda::device_count, "How many GPUs there are; 0 without a driver.");
  m.def("why_no_device", &cuda::why_no_device, "Why there is no GPU, in the driver's words; '' where there is one.");
  m.def("capability", &checked_capability, py::arg("device"), "A GPU's compute capability, 10 * major + minor.");
}

}  // namespace wordkiln::bindings
