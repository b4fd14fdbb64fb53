#include "wordkiln/cuda/attention.h"

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <functional>
#include <stdexcept>

#include "bindings/attention_arguments.h"
#include "bindings/checks.h"
#include "bindings/cuda/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

constexpr int64_t kLargestFloat32Head = 128;  // wordkiln/cuda/attention.h

// Elements of 16 bytes, which are copied together.
int64_t chunk_of(cuda::DType dtype) { return dtype == cuda::DType::kFloat32 ? 4 : 8; }

void* checked(const char* name, uintptr_t address, int64_t elements) {
  if (address % 16 != 0) throw std::invalid_argument(std::string(name) + ": address must be a multiple of 16");
  return to_pointer(name, address, elements);
}

AttentionStrides checked(const char* name, const Strides& strides, cuda::DType dtype) {
  const AttentionStrides s = to_strides(strides);
  const int64_t chunk = chunk_of(dtype);
  if (s.batch % chunk != 0 || s.head % chunk != 0 || s.row % chunk != 0) {
    throw std::invalid_argument(std::string(name) + ": strides must be multiples of " + std::to_string(chunk));
  }
  return s;
}

// The kernels count rows, keys and blocks in 32 bits.
AttentionSizes checked(const Sizes& sizes, bool packed, cuda::DType dtype) {
  const AttentionSizes s = to_sizes(sizes);
  constexpr int64_t kMost = int64_t{1} << 30, kTile = 16;
  const int64_t rows = elements(s, packed, s.heads, s.queries) + s.batch * s.heads * kTile;
  const int64_t keys = elements(s, packed, s.kv_heads, s.keys) + s.batch * s.kv_heads * kTile;
  if (s.queries > kMost || s.keys > kMost || rows > kMost || keys > kMost) {
    throw std::invalid_argument("sizes: the queries of all heads, and the keys, must be at most 2^30");
  }
  const int64_t chunk = chunk_of(dtype), largest = dtype == cuda::DType::kFloat32 ? kLargestFloat32Head : kLargestHead;
  if (s.head_size % chunk != 0 || s.head_size > largest) {
    throw std::invalid_argument("head_size=" + std::to_string(s.head_size) + ": must be a multiple of " +
                                std::to_string(chunk) + " and at most " + std::to_string(largest));
  }
  return s;
}

// Gives the address of so many bytes, which stay until the kernels are done.
using Allocate = std::function<uintptr_t(int64_t)>;

void* allocated(const Allocate& allocate, int64_t bytes) {
  return bytes == 0 ? nullptr : to_pointer("workspace", allocate(bytes), bytes);
}

void forward(const std::string& dtype, uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t out, uintptr_t lse,
             uintptr_t key_lengths, const Sizes& sizes, const Strides& q_strides, const Strides& k_strides,
             const Strides& v_strides, const Strides& out_strides, bool causal, double scale, int64_t window,
             double soft_cap, uintptr_t bias, const BiasStrides& bias_strides, uintptr_t slopes, double dropout,
             uint64_t seed, uint32_t offset, uintptr_t query_offsets, uintptr_t key_offsets, uintptr_t page_table,
             int64_t pages, int64_t page_size, int64_t page_count, const Allocate& allocate, uintptr_t stream) {
  const cuda::DType type = parse_cuda_dtype(dtype);
  const AttentionSizes s = checked(sizes, query_offsets != 0, type);
  const More more = {window, soft_cap, bias, bias_strides, slopes, dropout, seed, offset, query_offsets, key_offsets};
  const int64_t rows = elements(s, query_offsets != 0, s.heads, s.queries);
  const int64_t keys = elements(s, key_offsets != 0, s.kv_heads, s.keys);
  const AttentionForward arguments = {
      .q = checked("q", q, rows),
      .k = checked("k", k, keys),
      .v = checked("v", v, keys),
      .out = checked("out", out, rows),
      .lse = to_pointer("lse", lse, rows),
      .sizes = s,
      .q_strides = checked("q", q_strides, type),
      .k_strides = checked("k", k_strides, type),
      .v_strides = checked("v", v_strides, type),
      .out_strides = checked("out", out_strides, type),
      .scores = to_scores(key_lengths, causal, scale, more),
      .pages = to_pages(page_table, pages, page_size, page_count, s, more),
  };
  void* workspace = allocated(allocate, cuda::attention_forward_workspace(type, arguments));
  const py::gil_scoped_release release;
  cuda::attention_forward(type, arguments, workspace, reinterpret_cast<void*>(stream));
}

void backward(const std::string& dtype, uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t out, uintptr_t lse,
              uintptr_t grad_out, uintptr_t grad_q, uintptr_t grad_k, uintptr_t grad_v, uintptr_t key_lengths,
              const Sizes& sizes, const Strides& q_strides, const Strides& k_strides, const Strides& v_strides,
              const Strides& out_strides, const Strides& grad_out_strides, bool causal, double scale, int64_t window,
              double soft_cap, uintptr_t bias, const BiasStrides& bias_strides, uintptr_t slopes, double dropout,
              uint64_t seed, uint32_t offset, uintptr_t query_offsets, uintptr_t key_offsets, uintptr_t grad_lse,
              const Allocate& allocate, uintptr_t stream) {
  const cuda::DType type = parse_cuda_dtype(dtype);
  const AttentionSizes s = checked(sizes, query_offsets != 0, type);
  const More more = {window, soft_cap, bias, bias_strides, slopes, dropout, seed, offset, query_offsets, key_offsets};
  const int64_t rows = elements(s, query_offsets != 0, s.heads, s.queries);
  const int64_t keys = elements(s, key_offsets != 0, s.kv_heads, s.keys);
  const AttentionBackward arguments = {
      .q = checked("q", q, rows),
      .k = checked("k", k, keys),
      .v = checked("v", v, keys),
      .out = checked("out", out, rows),
      .lse = to_pointer("lse", lse, rows),
      .grad_out = checked("grad_out", grad_out, rows),
      .grad_lse = to_pointer("grad_lse", grad_lse, 0),
      .grad_q = checked("grad_q", grad_q, rows),
      .grad_k = checked("grad_k", grad_k, keys),
      .grad_v = checked("grad_v", grad_v, keys),
      .grad_bias = nullptr,
      .grad_bias_strides = {0, 0, 0, 0},
      .sizes = s,
      .q_strides = checked("q", q_strides, type),
      .k_strides = checked("k", k_strides, type),
      .v_strides = checked("v", v_strides, type),
      .out_strides = checked("out", out_strides, type),
      .grad_out_strides = checked("grad_out", grad_out_strides, type),
      .scores = to_scores(key_lengths, causal, scale, more),
  };
  void* workspace = allocated(allocate, cuda::attention_backward_workspace(type, arguments));
  const py::gil_scoped_release release;
  cuda::attention_backward(type, arguments, workspace, reinterpret_cast<void*>(stream));
}

}  // namespace

void register_cuda_attention(py::module_& m) {
  const BiasStrides none = {0, 0, 0, 0};
  m.def("attention_forward", &forward, py::arg("dtype"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
        py::arg("lse"), py::arg("key_lengths"), py::arg("sizes"), py::arg("q_strides"), py::arg("k_strides"),
        py::arg("v_strides"), py::arg("out_strides"), py::arg("causal"), py::arg("scale"), py::arg("window") = 0,
        py::arg("soft_cap") = 0.0, py::arg("bias") = 0, py::arg("bias_strides") = none, py::arg("slopes") = 0,
        py::arg("dropout") = 0.0, py::arg("seed") = 0, py::arg("offset") = 0, py::arg("query_offsets") = 0,
        py::arg("key_offsets") = 0, py::arg("page_table") = 0, py::arg("pages") = 0, py::arg("page_size") = 0,
        py::arg("page_count") = 0, py::kw_only(), py::arg("allocate"), py::arg("stream"));
  m.def("attention_backward", &backward, py::arg("dtype"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
        py::arg("lse"), py::arg("grad_out"), py::arg("grad_q"), py::arg("grad_k"), py::arg("grad_v"),
        py::arg("key_lengths"), py::arg("sizes"), py::arg("q_strides"), py::arg("k_strides"), py::arg("v_strides"),
        py::arg("out_strides"), py::arg("grad_out_strides"), py::arg("causal"), py::arg("scale"), py::arg("window") = 0,
        py::arg("soft_cap") = 0.0, py::arg("bias") = 0, py::arg("bias_strides") = none, py::arg("slopes") = 0,
        py::arg("dropout") = 0.0, py::arg("seed") = 0, py::arg("offset") = 0, py::arg("query_offsets") = 0,
        py::arg("key_offsets") = 0, py::arg("grad_lse") = 0, py::kw_only(), py::arg("allocate"), py::arg("stream"));
}

}  // namespace wordkiln::bindings
