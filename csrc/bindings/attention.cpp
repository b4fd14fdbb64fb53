#include "wordkiln/attention.h"

#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

constexpr int64_t kLargestHead = 256;

using Sizes = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
using Strides = std::tuple<int64_t, int64_t, int64_t>;

AttentionSizes to_sizes(const Sizes& sizes) {
  const auto [batch, heads, kv_heads, queries, keys, head_size] = sizes;
  if (head_size < 1 || head_size > kLargestHead) {
    throw std::invalid_argument("head_size=" + std::to_string(head_size) + ": must be 1 to " +
                                std::to_string(kLargestHead));
  }
  if (kv_heads < 1 || heads < 0 || heads % kv_heads != 0) {
    throw std::invalid_argument("heads=" + std::to_string(heads) +
                                ": must be a multiple of kv_heads=" + std::to_string(kv_heads));
  }
  count_elements("attention", {batch, heads, queries, keys, head_size});
  return {batch, heads, kv_heads, queries, keys, head_size};
}

AttentionStrides to_strides(const Strides& strides) {
  return {std::get<0>(strides), std::get<1>(strides), std::get<2>(strides)};
}

const int64_t* to_lengths(uintptr_t address, const AttentionSizes& sizes) {
  const int64_t* lengths = reinterpret_cast<const int64_t*>(address);
  for (int64_t row = 0; lengths != nullptr && row < sizes.batch; ++row) {
    if (lengths[row] < 0 || lengths[row] > sizes.keys) {
      throw std::invalid_argument("key_lengths[" + std::to_string(row) + "]=" + std::to_string(lengths[row]) +
                                  ": must be 0 to " + std::to_string(sizes.keys));
    }
  }
  return lengths;
}

void forward(const std::string& dtype, uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t out, uintptr_t lse,
             uintptr_t key_lengths, const Sizes& sizes, const Strides& q_strides, const Strides& k_strides,
             const Strides& v_strides, const Strides& out_strides, bool causal, double scale) {
  const AttentionSizes s = to_sizes(sizes);
  const int64_t rows = s.batch * s.heads * s.queries, keys = s.batch * s.kv_heads * s.keys;
  const AttentionForward arguments = {
      .q = to_pointer("q", q, rows),
      .k = to_pointer("k", k, keys),
      .v = to_pointer("v", v, keys),
      .out = to_pointer("out", out, rows),
      .lse = to_pointer("lse", lse, rows),
      .key_lengths = to_lengths(key_lengths, s),
      .sizes = s,
      .q_strides = to_strides(q_strides),
      .k_strides = to_strides(k_strides),
      .v_strides = to_strides(v_strides),
      .out_strides = to_strides(out_strides),
      .causal = causal,
      .scale = scale,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  attention_forward(type, arguments);
}

void backward(const std::string& dtype, uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t out, uintptr_t lse,
              uintptr_t grad_out, uintptr_t grad_q, uintptr_t grad_k, uintptr_t grad_v, uintptr_t key_lengths,
              const Sizes& sizes, const Strides& q_strides, const Strides& k_strides, const Strides& v_strides,
              const Strides& out_strides, const Strides& grad_out_strides, bool causal, double scale) {
  const AttentionSizes s = to_sizes(sizes);
  const int64_t rows = s.batch * s.heads * s.queries, keys = s.batch * s.kv_heads * s.keys;
  const AttentionBackward arguments = {
      .q = to_pointer("q", q, rows),
      .k = to_pointer("k", k, keys),
      .v = to_pointer("v", v, keys),
      .out = to_pointer("out", out, rows),
      .lse = to_pointer("lse", lse, rows),
      .grad_out = to_pointer("grad_out", grad_out, rows),
      .grad_q = to_pointer("grad_q", grad_q, rows),
      .grad_k = to_pointer("grad_k", grad_k, keys),
      .grad_v = to_pointer("grad_v", grad_v, keys),
      .key_lengths = to_lengths(key_lengths, s),
      .sizes = s,
      .q_strides = to_strides(q_strides),
      .k_strides = to_strides(k_strides),
      .v_strides = to_strides(v_strides),
      .out_strides = to_strides(out_strides),
      .grad_out_strides = to_strides(grad_out_strides),
      .causal = causal,
      .scale = scale,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  attention_backward(type, arguments);
}

}  // namespace

void register_attention(py::module_& m) {
  m.def("attention_forward", &forward, py::arg("dtype"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
        py::arg("lse"), py::arg("key_lengths"), py::arg("sizes"), py::arg("q_strides"), py::arg("k_strides"),
        py::arg("v_strides"), py::arg("out_strides"), py::arg("causal"), py::arg("scale"));
  m.def("attention_backward", &backward, py::arg("dtype"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
        py::arg("lse"), py::arg("grad_out"), py::arg("grad_q"), py::arg("grad_k"), py::arg("grad_v"),
        py::arg("key_lengths"), py::arg("sizes"), py::arg("q_strides"), py::arg("k_strides"), py::arg("v_strides"),
        py::arg("out_strides"), py::arg("grad_out_strides"), py::arg("causal"), py::arg("scale"));
}

}  // namespace wordkiln::bindings
