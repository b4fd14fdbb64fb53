#include "bindings/shapes.h"

#include <pybind11/gil_safe_call_once.h>

#include <algorithm>
#include <cctype>
#include <sstream>
#include <stdexcept>

#include "bindings/register.h"
#include "bindings/tensor.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

// torch's word for the kind of device, or null where there are no kernels for it.
const char* name_of(const dlpack::Device& device) {
  return device.type == dlpack::kCpu ? "cpu" : device.type == dlpack::kCuda ? "cuda" : nullptr;
}

// A GPU's kernels take float16, too. (And no float64; the op asks for what there is none of.)
bool is_taken(const dlpack::DataType& dtype, const dlpack::Device& device) {
  const bool is_half = dtype.code == dlpack::kFloat && dtype.bits == 16;
  return to_dtype(dtype).has_value() || (is_half && device.type == dlpack::kCuda);
}

}  // namespace

TensorShapes::TensorShapes(const std::string& pattern) {
  std::istringstream list(pattern);
  for (std::string text; std::getline(list, text, ',');) wanted_.push_back(parse(text));
}

TensorShapes::Wanted TensorShapes::parse(const std::string& text) {
  Wanted result;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (word == "...") {
      result.leading = true;
    } else if (word == "?") {
      result.optional = true;
    } else if (word == "int64:") {
      result.kind = Kind::kInt64;
    } else if (word == "wide:") {
      result.kind = Kind::kWide;
    } else if (word == "float:") {
      result.kind = Kind::kFloat;
    } else {
      const bool or_one = word.front() == '~', times = std::isdigit(word.front()) != 0;
      const char letter = word.back();
      if (word.size() != 1u + (or_one || times) || letter < 'a' || letter > 'z') {
        throw std::invalid_argument("pattern: '" + word + "' is no size");
      }
      result.sizes.push_back({times ? word.front() - '0' : 1, letter - 'a', or_one});
    }
  }
  return result;
}

py::object TensorShapes::device(const py::args& tensors) const {
  const std::optional<dlpack::Device> found = fit(tensors);
  if (!found) return py::none();
  return py::str(name_of(*found));
}

std::optional<dlpack::Device> TensorShapes::fit(const py::args& tensors) const {
  if (tensors.size() != wanted_.size()) return std::nullopt;
  Found found = {};
  found.letters.fill(-1);
  for (size_t i = 0; i < wanted_.size(); ++i) {
    const py::handle tensor = PyTuple_GET_ITEM(tensors.ptr(), static_cast<py::ssize_t>(i));
    if (tensor.is_none()) {
      if (!wanted_[i].optional) return std::nullopt;
      continue;
    }
    const std::optional<dlpack::Tensor> x = try_view_tensor(tensor);
    if (!x || name_of(x->device) == nullptr) return std::nullopt;
    if (!found.device) {
      found.first = x->dtype;
      found.device = x->device;
    }
    if (x->device.type != found.device->type || x->device.id != found.device->id) return std::nullopt;
    if (!fits(wanted_[i], *x, found)) return std::nullopt;
  }
  return found.device;
}

bool TensorShapes::fits(const Wanted& wanted, const dlpack::Tensor& x, Found& found) {
  const std::span<const int64_t> shape(x.shape, static_cast<size_t>(x.ndim));
  if (!fits(wanted.kind, x.dtype, found.first, *found.device)) return false;
  const size_t last = wanted.sizes.size();
  if (wanted.leading ? shape.size() < last : shape.size() != last) return false;
  const std::span<const int64_t> leading = shape.first(shape.size() - last);
  if (wanted.leading && !found.leading) found.leading = leading;
  if (wanted.leading && !std::ranges::equal(leading, *found.leading)) return false;
  for (size_t i = 0; i < last; ++i) {
    if (!fits(wanted.sizes[i], shape[leading.size() + i], found)) return false;
  }
  return true;
}

bool TensorShapes::fits(Kind kind, const dlpack::DataType& dtype, const dlpack::DataType& first,
                        const dlpack::Device& device) {
  if (kind == Kind::kInt64) return dtype.code == dlpack::kInt && dtype.bits == 64;
  if (!is_taken(dtype, device) || !is_taken(first, device)) return false;
  const bool same = dtype.code == first.code && dtype.bits == first.bits;
  if (kind == Kind::kWide && first.bits == 16) return dtype.code == dlpack::kFloat && dtype.bits == 32;
  return kind == Kind::kFloat || same;
}

bool TensorShapes::fits(const Size& wanted, int64_t size, Found& found) {
  if (wanted.or_one && size == 1) return true;
  int64_t& letter = found.letters[static_cast<size_t>(wanted.letter)];
  if (letter < 0 && size % wanted.times == 0) letter = size / wanted.times;
  int64_t product = 0;
  return !__builtin_mul_overflow(letter, wanted.times, &product) && size == product;
}

namespace {

// Lists are of numbers.
bool is_option(py::handle x) {
  PyObject* p = x.ptr();
  return x.is_none() || PyBool_Check(p) || PyLong_CheckExact(p) || PyFloat_CheckExact(p) || PyUnicode_CheckExact(p) ||
         PyList_CheckExact(p);
}

}  // namespace

py::object plain_device(const py::tuple& inputs) {
  const char* found = nullptr;
  for (const py::handle input : inputs) {
    if (is_option(input)) continue;
    const std::optional<dlpack::Tensor> x = try_view_tensor(input);
    const char* name = x ? name_of(x->device) : nullptr;
    if (name == nullptr) return py::none();
    if (found == nullptr) found = name;
  }
  if (found == nullptr) return py::none();
  return py::str(found);
}

bool any_requires_grad(const py::tuple& inputs) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::str> storage;
  const py::str& name = storage.call_once_and_store_result([] { return py::str("requires_grad"); }).get_stored();
  for (const py::handle input : inputs) {
    if (!is_option(input) && input.attr(name).cast<bool>()) return true;
  }
  return false;
}

void register_shapes(py::module_& m) {
  // An ordinary metaclass: stubs cannot name pybind11's own.
  const auto metaclass = py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type));
  m.def("plain_device", &plain_device, py::arg("inputs"));
  m.def("any_requires_grad", &any_requires_grad, py::arg("inputs"));
  py::class_<TensorShapes>(m, "TensorShapes", metaclass)
      .def(py::init<const std::string&>(), py::arg("pattern"))
      .def("device", &TensorShapes::device);
}

}  // namespace wordkiln::bindings
