#include "wordkiln/attention.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "bindings/attention_arguments.h"
#include "bindings/checks.h"
#include "bindings/register.h"
#include "bindings/tensor.h"

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

// Addresses and layouts of the tensors of a forward pass.
struct Tensors {
  uintptr_t q, k, v, out, lse;
  AttentionStrides q_strides, k_strides, v_strides, out_strides;
};

void run_forward(DType dtype, const AttentionSizes& s, const Tensors& x, const AttentionScores& scores,
                 const AttentionPages& pages) {
  const bool packed = scores.query_offsets != nullptr;
  const int64_t rows = elements(s, packed, s.heads, s.queries);
  const int64_t keys = elements(s, packed, s.kv_heads, s.keys);
  const AttentionForward arguments = {
      .q = to_pointer("q", x.q, rows),
      .k = to_pointer("k", x.k, keys),
      .v = to_pointer("v", x.v, keys),
      .out = to_pointer("out", x.out, rows),
      .lse = to_pointer("lse", x.lse, rows),
      .sizes = s,
      .q_strides = x.q_strides,
      .k_strides = x.k_strides,
      .v_strides = x.v_strides,
      .out_strides = x.out_strides,
      .scores = scores,
      .pages = pages,
  };
  const py::gil_scoped_release release;
  attention_forward(dtype, arguments);
}

void forward(const std::string& dtype, uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t out, uintptr_t lse,
             uintptr_t key_lengths, const Sizes& sizes, const Strides& q_strides, const Strides& k_strides,
             const Strides& v_strides, const Strides& out_strides, bool causal, double scale, int64_t window,
             double soft_cap, uintptr_t bias, const BiasStrides& bias_strides, uintptr_t slopes, double dropout,
             uint64_t seed, uint32_t offset, uintptr_t query_offsets, uintptr_t key_offsets, uintptr_t page_table,
             int64_t pages, int64_t page_size, int64_t page_count) {
  const AttentionSizes s = to_sizes(sizes);
  const More more = {window, soft_cap, bias, bias_strides, slopes, dropout, seed, offset, query_offsets, key_offsets};
  const Tensors tensors = {
      q, k, v, out, lse, to_strides(q_strides), to_strides(k_strides), to_strides(v_strides), to_strides(out_strides)};
  const AttentionScores scores = to_scores(key_lengths, causal, scale, more);
  check_scores(scores, s);
  const AttentionPages table = to_pages(page_table, pages, page_size, page_count, s, more);
  check_table(table, s, scores.key_lengths);
  run_forward(parse_dtype(dtype), s, tensors, scores, table);
}

AttentionStrides strides_of(const char* name, const TensorView& x, bool packed) {
  if (x.strides[3] != 1 && x.shape[3] > 1) throw std::invalid_argument(std::string(name) + ": rows must be contiguous");
  return {packed ? 0 : x.strides[0], x.strides[1], x.strides[2]};
}

// Of x in the shape [B, H, S, K]: any of its dimensions may be 1.
BiasStrides bias_strides_of(const TensorView& bias) {
  const auto stride = [&](size_t i) { return bias.shape[i] == 1 ? 0 : bias.strides[i]; };
  return {stride(0), stride(1), stride(2), stride(3)};
}

void check_shape(const char* name, const TensorView& x, DType dtype, std::initializer_list<int64_t> shape) {
  if (!std::ranges::equal(x.shape, shape)) throw std::invalid_argument(std::string(name) + ": shape does not fit q");
  if (x.dtype != dtype) throw std::invalid_argument(std::string(name) + ": dtype does not fit q");
}

void forward_tensors(py::handle q, py::handle k, py::handle v, py::handle out, py::handle lse, py::handle key_lengths,
                     py::handle bias, py::handle slopes, py::handle query_offsets, py::handle key_offsets, bool causal,
                     int64_t window, double scale, double soft_cap, double dropout, uint64_t seed, uint32_t offset) {
  const TensorView queries = view_tensor("q", q, 4), keys = view_tensor("k", k, 4), values = view_tensor("v", v, 4);
  const TensorView outs = view_tensor("out", out, 4), sums = view_tensor("lse", lse, 3);
  const DType dtype = queries.dtype, computed = dtype == DType::kBfloat16 ? DType::kFloat32 : dtype;
  const int64_t rows = queries.shape[0], heads = queries.shape[1], length = queries.shape[2], width = queries.shape[3];
  check_shape("k", keys, dtype, {rows, keys.shape[1], keys.shape[2], width});
  check_shape("v", values, dtype, {rows, keys.shape[1], keys.shape[2], width});
  check_shape("out", outs, dtype, {rows, heads, length, width});
  check_shape("lse", sums, computed, {rows, heads, length});
  const bool packed = !query_offsets.is_none();
  const int64_t batch = packed ? static_cast<int64_t>(py::len(query_offsets)) - 1 : rows;
  const AttentionSizes s = to_sizes({batch, heads, keys.shape[1], length, keys.shape[2], width});
  const auto address = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
  const std::vector<double> slope_of_head = read_numbers("slopes", slopes, heads);
  More more = {.window = window,
               .soft_cap = soft_cap,
               .bias = 0,
               .bias_strides = {0, 0, 0, 0},
               .slopes = slopes.is_none() ? 0 : address(slope_of_head.data()),
               .dropout = dropout,
               .seed = seed,
               .offset = offset,
               .query_offsets = address(view_integers("query_offsets", query_offsets, batch + 1)),
               .key_offsets = address(view_integers("key_offsets", key_offsets, batch + 1))};
  if (!bias.is_none()) {
    const TensorView added = view_tensor("bias", bias, 4);
    const int64_t wanted[] = {batch, heads, length, keys.shape[2]};
    for (size_t i = 0; i < 4; ++i) {
      if (added.shape[i] != 1 && added.shape[i] != wanted[i]) throw std::invalid_argument("bias: shape does not fit");
    }
    if (added.dtype != dtype) throw std::invalid_argument("bias: dtype does not fit q");
    more.bias = address(added.data);
    more.bias_strides = bias_strides_of(added);
  }
  const Tensors tensors = {address(queries.data),
                           address(keys.data),
                           address(values.data),
                           address(outs.data),
                           address(sums.data),
                           strides_of("q", queries, packed),
                           strides_of("k", keys, packed),
                           strides_of("v", values, packed),
                           strides_of("out", outs, packed)};
  const uintptr_t lengths = address(view_integers("key_lengths", key_lengths, batch));
  const AttentionScores scores = to_scores(lengths, causal, scale, more);
  check_scores(scores, s);
  run_forward(dtype, s, tensors, scores, {nullptr, 0, 0, 0});
}

void paged_tensors(py::handle q, py::handle key_pages, py::handle value_pages, py::handle out, py::handle lse,
                   py::handle page_table, py::handle key_lengths, py::handle slopes, bool causal, int64_t window,
                   double scale, double soft_cap) {
  const TensorView queries = view_tensor("q", q, 4), outs = view_tensor("out", out, 4);
  const TensorView keys = view_tensor("key_pages", key_pages, 4), values = view_tensor("value_pages", value_pages, 4);
  const TensorView sums = view_tensor("lse", lse, 3);
  const DType dtype = queries.dtype, computed = dtype == DType::kBfloat16 ? DType::kFloat32 : dtype;
  const int64_t rows = queries.shape[0], heads = queries.shape[1], length = queries.shape[2], width = queries.shape[3];
  const int64_t page_count = keys.shape[0], page_size = keys.shape[1], kv_heads = keys.shape[2];
  check_shape("key_pages", keys, dtype, {page_count, page_size, kv_heads, width});
  check_shape("value_pages", values, dtype, {page_count, page_size, kv_heads, width});
  check_shape("out", outs, dtype, {rows, heads, length, width});
  check_shape("lse", sums, computed, {rows, heads, length});
  const IntegerRows table = view_integer_rows("page_table", page_table, rows);
  const std::vector<double> slope_of_head = read_numbers("slopes", slopes, heads);
  AttentionSizes s = to_sizes({rows, heads, kv_heads, length, table.columns * page_size, width});
  const auto address = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
  const More more = {.window = window,
                     .soft_cap = soft_cap,
                     .bias = 0,
                     .bias_strides = {0, 0, 0, 0},
                     .slopes = slopes.is_none() ? 0 : address(slope_of_head.data()),
                     .dropout = 0,
                     .seed = 0,
                     .offset = 0,
                     .query_offsets = 0,
                     .key_offsets = 0};
  const auto of_pages = [](const char* name, const TensorView& x) -> AttentionStrides {
    const AttentionStrides strides = strides_of(name, x, false);
    return {strides.batch, strides.row, strides.head};  // [pages, page_size, Hkv, D]
  };
  const Tensors tensors = {address(queries.data),
                           address(keys.data),
                           address(values.data),
                           address(outs.data),
                           address(sums.data),
                           strides_of("q", queries, false),
                           of_pages("key_pages", keys),
                           of_pages("value_pages", values),
                           strides_of("out", outs, false)};
  const int64_t* lengths = view_integers("key_lengths", key_lengths, rows);
  const AttentionScores scores = to_scores(address(lengths), causal, scale, more);
  check_scores(scores, s);
  const AttentionPages pages = {table.data, table.columns, page_size, page_count};
  check_table(pages, s, lengths);
  // The threads share out the keys there are, not those there is room for.
  if (rows > 0) s.keys = *std::max_element(lengths, lengths + rows);
  run_forward(dtype, s, tensors, scores, pages);
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
  m.def("attention_forward_tensors", &forward_tensors, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
        py::arg("lse"), py::arg("key_lengths"), py::arg("bias"), py::arg("slopes"), py::arg("query_offsets"),
        py::arg("key_offsets"), py::arg("causal"), py::arg("window"), py::arg("scale"), py::arg("soft_cap"),
        py::arg("dropout"), py::arg("seed"), py::arg("offset"));
  m.def("attention_paged_tensors", &paged_tensors, py::arg("q"), py::arg("key_pages"), py::arg("value_pages"),
        py::arg("out"), py::arg("lse"), py::arg("page_table"), py::arg("key_lengths"), py::arg("slopes"),
        py::arg("causal"), py::arg("window"), py::arg("scale"), py::arg("soft_cap"));
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
