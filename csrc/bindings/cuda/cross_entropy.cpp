#include "wordkiln/cuda/cross_entropy.h"

#include <stdexcept>

#include "bindings/checks.h"
#include "bindings/cuda/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

void run(const std::string& dtype, uintptr_t logits, uintptr_t bias, uintptr_t targets, uintptr_t losses, int64_t rows,
         int64_t vocabulary, int64_t pitch, int64_t ignore_index, double label_smoothing, double z_loss, bool gradient,
         uintptr_t stream) {
  const cuda::DType type = parse_cuda_dtype(dtype);
  const int64_t part = type == cuda::DType::kFloat32 ? 4 : 8;
  constexpr int64_t kMost = int64_t{1} << 30;  // words and rows are counted in 32 bits
  if (rows < 0 || rows > kMost || vocabulary < 1 || vocabulary > kMost) {
    throw std::invalid_argument("rows=" + std::to_string(rows) + ", vocabulary=" + std::to_string(vocabulary) +
                                ": must be 0, or for the vocabulary 1, to 2^30");
  }
  if (pitch < vocabulary || pitch % part != 0) {
    throw std::invalid_argument("pitch=" + std::to_string(pitch) + ": must be a multiple of " + std::to_string(part) +
                                " and at least the vocabulary, " + std::to_string(vocabulary));
  }
  if (logits % 16 != 0) throw std::invalid_argument("logits: address must be a multiple of 16");
  const cuda::SoftmaxGradient arguments = {
      .logits = to_pointer("logits", logits, rows),
      .bias = to_pointer("bias", bias, 0),
      .targets = static_cast<const int64_t*>(to_pointer("targets", targets, rows)),
      .losses = static_cast<float*>(to_pointer("losses", losses, rows)),
      .rows = rows,
      .vocabulary = vocabulary,
      .pitch = pitch,
      .ignore_index = ignore_index,
      .label_smoothing = label_smoothing,
      .z_loss = z_loss,
      .gradient = gradient,
  };
  const py::gil_scoped_release release;
  cuda::softmax_gradient(type, arguments, reinterpret_cast<void*>(stream));
}

}  // namespace

void register_cuda_cross_entropy(py::module_& m) {
  m.def("softmax_gradient", &run, py::arg("dtype"), py::arg("logits"), py::arg("bias"), py::arg("targets"),
        py::arg("losses"), py::arg("rows"), py::arg("vocabulary"), py::arg("pitch"), py::arg("ignore_index"),
        py::arg("label_smoothing"), py::arg("z_loss"), py::arg("gradient"), py::kw_only(), py::arg("stream"));
}

}  // namespace wordkiln::bindings
