// Shapes that an op's tensors must have, asked in one call: Python takes 2 us a tensor for it (ops/_checks.py).
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bindings/dlpack.h"

namespace wordkiln::bindings {

// The tensors are listed with commas between them, each as its sizes with spaces between them:
//   h      a letter is a size, the same wherever it stands; 4h: four times it; ~h: it or 1
//   ...    whatever sizes, the same wherever they stand; only at the front
//   int64: in front: of this dtype; wide: float32 where the first tensor has 16 bits, else its dtype; float: any that
//          kernels take. Without one of these: the first tensor's, which is float32, float64 or bfloat16, or float16
//          on a GPU
//   ?      behind: or None
// "t b i, 4h i, 4h h, 4h ?" are the tensors of an LSTM with an optional bias.
class TensorShapes {
 public:
  explicit TensorShapes(const std::string& pattern);

  // "cpu" or "cuda" where these are such tensors, of class torch.Tensor or torch.nn.Parameter itself and all on one
  // device of that kind, else None. No error for what does not fit: the checks of the op name it.
  pybind11::object device(const pybind11::args& tensors) const;

 private:
  enum class Kind { kFirst, kWide, kFloat, kInt64 };

  struct Size {
    int64_t times;
    int letter;
    bool or_one;
  };

  struct Wanted {
    Kind kind = Kind::kFirst;
    bool leading = false, optional = false;
    std::vector<Size> sizes;
  };

  // What the tensors before have settled.
  struct Found {
    dlpack::DataType first;
    std::optional<dlpack::Device> device;
    std::optional<std::span<const int64_t>> leading;
    std::array<int64_t, 26> letters;
  };

  static Wanted parse(const std::string& text);
  static bool fits(const Wanted& wanted, const dlpack::Tensor& x, Found& found);
  std::optional<dlpack::Device> fit(const pybind11::args& tensors) const;
  static bool fits(Kind kind, const dlpack::DataType& dtype, const dlpack::DataType& first,
                   const dlpack::Device& device);
  static bool fits(const Size& wanted, int64_t size, Found& found);

  std::vector<Wanted> wanted_;
};

// The kind of device of an op's first tensor, "cpu" or "cuda", where its inputs are all numbers, words, None, or
// tensors of class torch.Tensor or torch.nn.Parameter itself, of any dtype, on such devices. Else, or without a tensor,
// None.
pybind11::object plain_device(const pybind11::tuple& inputs);

// Whether a tensor among such inputs is to have a gradient: Python takes 1.7 us to ask them all.
bool any_requires_grad(const pybind11::tuple& inputs);

}  // namespace wordkiln::bindings
