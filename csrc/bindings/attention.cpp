#include "wordkiln/attention.h"

#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings/attention_arguments.h"
#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

void check_lengths(const int64_t* lengths, const AttentionSizes& sizes) {
  for (int64_t row = 0; lengths != nullptr && row < sizes.batch; ++row) {
    if (lengths[row] < 0 || lengths[row] > sizes.keys) {
      throw std::invalid_argument("key_lengths[" + std::to_string(row) + "]=" + std::to_string(lengths[row]) +
                                  ": must be 0 to " + std::to_string(sizes.keys));
    }
  }
}

void check_offsets(const char* name, const int64_t* offsets, int64_t batch, int64_t total) {
  if (offsets == nullptr) return;
  bool rises = offsets[0] == 0 && offsets[batch] == total;
  for (int64_t row = 0; row < batch; ++row) rises = rises && offsets[row] <= offsets[row + 1];
  if (!rises) throw std::invalid_argument(std::string(name) + ": must rise from 0 to " + std::to_string(total));
}

void check_scores(const AttentionScores& scores, const AttentionSizes& sizes) {
  check_lengths(scores.key_lengths, sizes);
  check_offsets("query_offsets", scores.query_offsets, sizes.batch, sizes.queries);
  check_offsets("key_offsets", scores.key_offsets, sizes.batch, sizes.keys);
}

// Entries that no key of their row needs may be anything.
void check_table(const AttentionPages& pages, const AttentionSizes& s, const int64_t* key_lengths) {
  for (int64_t row = 0; pages.table != nullptr && row < s.batch; ++row) {
    const int64_t keys = key_lengths == nullptr ? s.keys : key_lengths[row];
    for (int64_t i = 0; i * pages.page_size < keys; ++i) {
      const int64_t page = pages.table[row * pages.pages + i];
      if (page < 0 || page >= pages.count) {
        throw std::invalid_argument("page_table[" + std::to_string(row) + ", " + std::to_string(i) +
                                    "]=" + std::to_string(page) + ": must be 0 to " + std::to_string(pages.count - 1));
      }
    }
  }
}

void forward(const std::string& dtype, uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t out, uintptr_t lse,
             uintptr_t key_lengths, const Sizes& sizes, const Strides& q_strides, const Strides& k_strides,
             const Strides& v_strides, const Strides& out_strides, bool causal, double scale, int64_t window,
             double soft_cap, uintptr_t bias, const BiasStrides& bias_strides, uintptr_t slopes, double dropout,
             uint64_t seed, uint32_t offset, uintptr_t query_offsets, uintptr_t key_offsets, uintptr_t page_table,
             int64_t pages, int64_t page_size, int64_t page_count) {
  const AttentionSizes s = to_sizes(sizes);
  const More more = {window, soft_cap, bias, bias_strides, slopes, dropout, seed, offset, query_offsets, key_offsets};
  const int64_t rows = elements(s, query_offsets != 0, s.heads, s.queries);
  const int64_t keys = elements(s, key_offsets != 0, s.kv_heads, s.keys);
  const AttentionScores scores = to_scores(key_lengths, causal, scale, more);
  check_scores(scores, s);
  const AttentionPages table = to_pages(page_table, pages, page_size, page_count, s, more);
  check_table(table, s, scores.key_lengths);
  const AttentionForward arguments = {
      .q = to_pointer("q", q, rows),
      .k = to_pointer("k", k, keys),
      .v = to_pointer("v", v, keys),
      .out = to_pointer("out", out, rows),
      .lse = to_pointer("lse", lse, rows),
      .sizes = s,
      .q_strides = to_strides(q_strides),
      .k_strides = to_strides(k_strides),
      .v_strides = to_strides(v_strides),
      .out_strides = to_strides(out_strides),
      .scores = scores,
      .pages = table,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  attention_forward(type, arguments);
}

void backward(const std::string& dtype, uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t out, uintptr_t lse,
              uintptr_t grad_out, uintptr_t grad_q, uintptr_t grad_k, uintptr_t grad_v, uintptr_t key_lengths,
              const Sizes& sizes, const Strides& q_strides, const Strides& k_strides, const Strides& v_strides,
              const Strides& out_strides, const Strides& grad_out_strides, bool causal, double scale, int64_t window,
              double soft_cap, uintptr_t bias, const BiasStrides& bias_strides, uintptr_t slopes, double dropout,
              uint64_t seed, uint32_t offset, uintptr_t query_offsets, uintptr_t key_offsets, uintptr_t grad_lse,
              uintptr_t grad_bias, const BiasStrides& grad_bias_strides) {
  const AttentionSizes s = to_sizes(sizes);
  const More more = {window, soft_cap, bias, bias_strides, slopes, dropout, seed, offset, query_offsets, key_offsets};
  const int64_t rows = elements(s, query_offsets != 0, s.heads, s.queries);
  const int64_t keys = elements(s, key_offsets != 0, s.kv_heads, s.keys);
  const AttentionScores scores = to_scores(key_lengths, causal, scale, more);
  check_scores(scores, s);
  const AttentionBackward arguments = {
      .q = to_pointer("q", q, rows),
      .k = to_pointer("k", k, keys),
      .v = to_pointer("v", v, keys),
      .out = to_pointer("out", out, rows),
      .lse = to_pointer("lse", lse, rows),
      .grad_out = to_pointer("grad_out", grad_out, rows),
      .grad_lse = to_pointer("grad_lse", grad_lse, 0),
      .grad_q = to_pointer("grad_q", grad_q, rows),
      .grad_k = to_pointer("grad_k", grad_k, keys),
      .grad_v = to_pointer("grad_v", grad_v, keys),
      .grad_bias = to_pointer("grad_bias", grad_bias, 0),
      .grad_bias_strides = to_bias_strides(grad_bias_strides),
      .sizes = s,
      .q_strides = to_strides(q_strides),
      .k_strides = to_strides(k_strides),
      .v_strides = to_strides(v_strides),
      .out_strides = to_strides(out_strides),
      .grad_out_strides = to_strides(grad_out_strides),
      .scores = scores,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  attention_backward(type, arguments);
}

}  // namespace

void register_attention(py::module_& m) {
  const BiasStrides none = {0, 0, 0, 0};
  m.def("attention_forward", &forward, py::arg("dtype"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
        py::arg("lse"), py::arg("key_lengths"), py::arg("sizes"), py::arg("q_strides"), py::arg("k_strides"),
        py::arg("v_strides"), py::arg("out_strides"), py::arg("causal"), py::arg("scale"), py::arg("window") = 0,
        py::arg("soft_cap") = 0.0, py::arg("bias") = 0, py::arg("bias_strides") = none, py::arg("slopes") = 0,
        py::arg("dropout") = 0.0, py::arg("seed") = 0, py::arg("offset") = 0, py::arg("query_offsets") = 0,
        py::arg("key_offsets") = 0, py::arg("page_table") = 0, py::arg("pages") = 0, py::arg("page_size") = 0,
        py::arg("page_count") = 0);
  m.def("attention_backward", &backward, py::arg("dtype"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
        py::arg("lse"), py::arg("grad_out"), py::arg("grad_q"), py::arg("grad_k"), py::arg("grad_v"),
        py::arg("key_lengths"), py::arg("sizes"), py::arg("q_strides"), py::arg("k_strides"), py::arg("v_strides"),
        py::arg("out_strides"), py::arg("grad_out_strides"), py::arg("causal"), py::arg("scale"), py::arg("window") = 0,
        py::arg("soft_cap") = 0.0, py::arg("bias") = 0, py::arg("bias_strides") = none, py::arg("slopes") = 0,
        py::arg("dropout") = 0.0, py::arg("seed") = 0, py::arg("offset") = 0, py::arg("query_offsets") = 0,
        py::arg("key_offsets") = 0, py::arg("grad_lse") = 0, py::arg("grad_bias") = 0,
        py::arg("grad_bias_strides") = none);
}

}  // namespace wordkiln::bindings
