#include "wordkiln/linear.h"

#include <sys/mman.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Weights and bias of an affine map, copied once; the arrays they came from may change or go.
class PackedLinear {
 public:
  PackedLinear(uintptr_t weight, uintptr_t bias, int64_t outputs, int64_t inputs, const std::string& storage)
      : sizes_{outputs, inputs}, storage_(parse_storage(storage)) {
    const int64_t elements = count_elements("weight", {outputs, inputs});
    const auto* from = static_cast<const float*>(to_pointer("weight", weight, elements));
    for (int64_t i = 0; storage_ == LinearStorage::kInt8 && i < elements; ++i) {
      if (!std::isfinite(from[i])) {
        throw std::invalid_argument("weight: must be finite to be stored as int8; element " + std::to_string(i) +
                                    " is not");
      }
    }
    if (bias != 0) {
      const auto* values = reinterpret_cast<const float*>(bias);
      bias_.assign(values, values + outputs);
    }
    bytes_ = linear_packed_bytes(storage_, sizes_);
    const size_t alignment = bytes_ < kHugePage ? 64 : kHugePage;
    packed_.reset(std::aligned_alloc(alignment, (bytes_ / alignment + 1) * alignment));
    if (packed_ == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (alignment == kHugePage) madvise(packed_.get(), bytes_, MADV_HUGEPAGE);
#endif
    const py::gil_scoped_release release;
    linear_pack(storage_, sizes_, from, packed_.get());
  }

  void run(uintptr_t x, uintptr_t out, int64_t rows) const {
    const LinearRun arguments = {
        .x = static_cast<const float*>(to_pointer("x", x, count_elements("x", {rows, sizes_.inputs}))),
        .packed = packed_.get(),
        .bias = bias_.empty() ? nullptr : bias_.data(),
        .out = static_cast<float*>(to_pointer("out", out, count_elements("out", {rows, sizes_.outputs}))),
        .rows = rows,
        .sizes = sizes_,
        .storage = storage_,
    };
    const py::gil_scoped_release release;
    linear_run(arguments);
  }

  void rows(uintptr_t ids, uintptr_t out, int64_t count) const {
    const auto* outputs = static_cast<const int64_t*>(to_pointer("ids", ids, count_elements("ids", {count})));
    auto* to = static_cast<float*>(to_pointer("out", out, count_elements("out", {count, sizes_.inputs})));
    for (int64_t i = 0; i < count; ++i) {
      if (outputs[i] < 0 || outputs[i] >= sizes_.outputs) {
        throw std::invalid_argument("ids[" + std::to_string(i) + "]=" + std::to_string(outputs[i]) + ": must be 0 to " +
                                    std::to_string(sizes_.outputs - 1));
      }
    }
    const py::gil_scoped_release release;
    linear_unpack(storage_, sizes_, packed_.get(), outputs, count, to);
  }

  int64_t inputs() const { return sizes_.inputs; }
  int64_t outputs() const { return sizes_.outputs; }
  size_t nbytes() const { return bytes_; }

 private:
  LinearSizes sizes_;
  LinearStorage storage_;
  std::vector<float> bias_;
  size_t bytes_ = 0;
  std::unique_ptr<void, Free> packed_;
};

}  // namespace

void register_linear(py::module_& m) {
  // An ordinary metaclass: stubs cannot name pybind11's own.
  const auto metaclass = py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type));
  py::class_<PackedLinear>(m, "PackedLinear", metaclass)
      .def(py::init<uintptr_t, uintptr_t, int64_t, int64_t, const std::string&>(), py::arg("weight"), py::arg("bias"),
           py::arg("outputs"), py::arg("inputs"), py::arg("storage"))
      .def("__call__", &PackedLinear::run, py::arg("x"), py::arg("out"), py::arg("rows"))
      .def("rows", &PackedLinear::rows, py::arg("ids"), py::arg("out"), py::arg("count"))
      .def_property_readonly("inputs", &PackedLinear::inputs)
      .def_property_readonly("outputs", &PackedLinear::outputs)
      .def_property_readonly("nbytes", &PackedLinear::nbytes);
}

}  // namespace wordkiln::bindings
