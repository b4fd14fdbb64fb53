#include "wordkiln/decoder.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

DecoderNorm parse_norm(const std::string& name) {
  if (name == "rms") return DecoderNorm::kRms;
  if (name == "layer") return DecoderNorm::kLayer;
  throw std::invalid_argument("norm='" + name + "': must be 'rms' or 'layer'");
}

DecoderActivation parse_activation(const std::string& name) {
  if (name == "silu") return DecoderActivation::kSilu;
  if (name == "gelu") return DecoderActivation::kGelu;
  if (name == "gelu_tanh") return DecoderActivation::kGeluTanh;
  throw std::invalid_argument("activation='" + name + "': must be 'silu', 'gelu' or 'gelu_tanh'");
}

void check_size(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  throw std::invalid_argument(std::string(name) + "=" + std::to_string(value) + ": must be " + std::to_string(least) +
                              " to " + std::to_string(most));
}

std::unique_ptr<Decoder> make(int64_t vocab, int64_t hidden, int64_t heads, int64_t kv_heads, int64_t head_size,
                              int64_t intermediate, const std::string& norm, float norm_eps,
                              const std::string& activation, bool gated, bool qk_norm, const std::string& storage) {
  check_size("vocab", vocab, 1, int64_t{1} << 24);
  check_size("hidden", hidden, 1, int64_t{1} << 16);
  check_size("heads", heads, 1, int64_t{1} << 10);
  check_size("kv_heads", kv_heads, 1, heads);
  check_size("head_size", head_size, 1, int64_t{1} << 12);
  check_size("intermediate", intermediate, 1, int64_t{1} << 18);
  if (heads % kv_heads != 0) {
    throw std::invalid_argument("heads=" + std::to_string(heads) +
                                ": must be a multiple of kv_heads=" + std::to_string(kv_heads));
  }
  const DecoderShape shape = {
      vocab, hidden, heads, kv_heads, head_size, intermediate, parse_norm(norm), norm_eps, parse_activation(activation),
      gated, qk_norm};
  return std::make_unique<Decoder>(shape, parse_storage(storage));
}

WeightEncoding parse_encoding(const std::string& name) {
  constexpr std::pair<const char*, WeightEncoding> kNames[] = {
      {"float32", WeightEncoding::kFloat32},   {"float16", WeightEncoding::kFloat16},
      {"bfloat16", WeightEncoding::kBfloat16}, {"q4_0", WeightEncoding::kQ4_0},
      {"q4_1", WeightEncoding::kQ4_1},         {"q8_0", WeightEncoding::kQ8_0}};
  for (const auto& [known, encoding] : kNames) {
    if (name == known) return encoding;
  }
  throw std::invalid_argument("encoding='" + name +
                              "': must be 'float32', 'float16', 'bfloat16', 'q4_0', 'q4_1' or 'q8_0'");
}

// Addresses by name; 0, or no such name: null.
class Addresses {
 public:
  explicit Addresses(const py::dict& values) : values_(values) {}

  const float* operator()(const char* name, bool needed) const {
    const auto value = values_.contains(name) ? values_[name].cast<uintptr_t>() : 0;
    return static_cast<const float*>(to_pointer(name, value, needed ? 1 : 0));
  }

 private:
  const py::dict& values_;
};

// Addresses and encodings by name; no such name: none.
class Matrices {
 public:
  explicit Matrices(const py::dict& values) : values_(values) {}

  EncodedMatrix operator()(const char* name, int64_t inputs, bool needed) const {
    if (!values_.contains(name)) {
      to_pointer(name, 0, needed ? 1 : 0);
      return {};
    }
    const auto [address, label] = values_[name].cast<std::pair<uintptr_t, std::string>>();
    const WeightEncoding encoding = parse_encoding(label);
    if (encoding >= WeightEncoding::kQ4_0 && inputs % kEncodingBlock != 0) {
      throw std::invalid_argument(std::string(name) + ": " + std::to_string(inputs) + " inputs in " + label +
                                  ": must be a multiple of " + std::to_string(kEncodingBlock));
    }
    return {to_pointer(name, address, needed ? 1 : 0), encoding};
  }

 private:
  const py::dict& values_;
};

void add_layer(Decoder& self, const py::dict& vectors, const py::dict& matrices, int64_t window) {
  const Addresses at(vectors);
  const Matrices matrix(matrices);
  const DecoderShape& shape = self.shape();
  check_size("window", window, 0, int64_t{1} << 40);
  const DecoderLayerWeights layer = {
      .attention_norm = at("attention_norm", true),
      .attention_norm_bias = at("attention_norm_bias", false),
      .qkv = matrix("qkv", shape.hidden, true),
      .qkv_bias = at("qkv_bias", false),
      .q_norm = at("q_norm", shape.qk_norm),
      .k_norm = at("k_norm", shape.qk_norm),
      .output = matrix("output", shape.heads * shape.head_size, true),
      .output_bias = at("output_bias", false),
      .mlp_norm = at("mlp_norm", true),
      .mlp_norm_bias = at("mlp_norm_bias", false),
      .gate = matrix("gate", shape.hidden, shape.gated),
      .up = matrix("up", shape.hidden, true),
      .gate_bias = at("gate_bias", false),
      .up_bias = at("up_bias", false),
      .down = matrix("down", shape.intermediate, true),
      .down_bias = at("down_bias", false),
      .window = window,
  };
  const py::gil_scoped_release release;
  self.add_layer(layer);
}

// Ids that rise, so that each stands there once.
const int64_t* unused_ids(uintptr_t address, int64_t count, int64_t vocab) {
  check_size("unused_count", count, 0, vocab);
  const auto* ids = static_cast<const int64_t*>(to_pointer("unused", address, count));
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] >= (i > 0 ? ids[i - 1] + 1 : 0) && ids[i] < vocab) continue;
    throw std::invalid_argument("unused[" + std::to_string(i) + "]=" + std::to_string(ids[i]) +
                                ": must rise, from 0 to " + std::to_string(vocab - 1));
  }
  return ids;
}

void set_ends(Decoder& self, const py::dict& vectors, const py::dict& matrices, int64_t max_positions, uintptr_t unused,
              int64_t unused_count) {
  const Addresses at(vectors);
  const Matrices matrix(matrices);
  check_size("max_positions", max_positions, 1, int64_t{1} << 40);
  const DecoderEnds ends = {
      .embedding = matrix("embedding", self.shape().hidden, true),
      .head = matrix("head", self.shape().hidden, false),
      .norm = at("norm", true),
      .norm_bias = at("norm_bias", false),
      .positions = at("positions", false),
      .max_positions = max_positions,
      .frequencies = at("frequencies", false),
      .unused = unused_ids(unused, unused_count, self.shape().vocab),
      .unused_count = unused_count,
  };
  const py::gil_scoped_release release;
  self.set_ends(ends);
}

void check_ids(const char* name, const int64_t* ids, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] >= 0 && ids[i] < limit) continue;
    throw std::invalid_argument(std::string(name) + "[" + std::to_string(i) + "]=" + std::to_string(ids[i]) +
                                ": must be 0 to " + std::to_string(limit - 1));
  }
}

void check_rows(const Decoder& self, const DecoderRun& run) {
  if (run.offsets[0] != 0) throw std::invalid_argument("offsets: must begin with 0");
  for (int64_t row = 0; row < run.rows; ++row) {
    const int64_t tokens = run.offsets[row + 1] - run.offsets[row], start = run.starts[row];
    if (tokens < 0) throw std::invalid_argument("offsets: must rise");
    if (start < 0 || start > self.max_positions() - tokens) {
      throw std::invalid_argument("starts[" + std::to_string(row) + "]=" + std::to_string(start) + ": with " +
                                  std::to_string(tokens) + " tokens it must stay within " +
                                  std::to_string(self.max_positions()) + " positions");
    }
    if ((start + tokens + kDecoderPageKeys - 1) / kDecoderPageKeys > run.pages_per_row) {
      throw std::invalid_argument("pages_per_row=" + std::to_string(run.pages_per_row) + ": must hold " +
                                  std::to_string(start + tokens) + " positions");
    }
  }
}

void run(const Decoder& self, uintptr_t ids, uintptr_t offsets, uintptr_t starts, int64_t rows, uintptr_t pages,
         int64_t pages_per_row, bool prompt, uintptr_t wanted, int64_t count, uintptr_t logits, uintptr_t targets,
         uintptr_t log_probabilities) {
  count_elements("rows", {rows, pages_per_row});
  const auto integers = [](const char* name, uintptr_t address, int64_t elements) {
    return static_cast<const int64_t*>(to_pointer(name, address, elements));
  };
  DecoderRun arguments = {
      .ids = nullptr,
      .offsets = integers("offsets", offsets, 1),
      .starts = integers("starts", starts, rows),
      .rows = rows,
      .pages = static_cast<void* const*>(to_pointer("pages", pages, rows * pages_per_row)),
      .pages_per_row = pages_per_row,
      .prompt = prompt,
      .wanted = integers("wanted", wanted, count),
      .count = count,
      .logits = static_cast<float*>(to_pointer("logits", logits, 0)),
      .targets = integers("targets", targets, 0),
      .log_probabilities = static_cast<float*>(to_pointer("log_probabilities", log_probabilities, 0)),
  };
  check_rows(self, arguments);
  const int64_t tokens = arguments.offsets[rows];
  arguments.ids = integers("ids", ids, tokens);
  check_ids("ids", arguments.ids, tokens, self.shape().vocab);
  check_ids("wanted", arguments.wanted, count, tokens);
  if (count > 0 && arguments.logits == nullptr) {
    to_pointer("targets", targets, count);
    to_pointer("log_probabilities", log_probabilities, count);
    check_ids("targets", arguments.targets, count, self.shape().vocab);
  }
  const py::gil_scoped_release release;
  self.run(arguments);
}

}  // namespace

void register_decoder(py::module_& m) {
  m.attr("DECODER_PAGE_KEYS") = kDecoderPageKeys;
  // An ordinary metaclass: stubs cannot name pybind11's own.
  const auto metaclass = py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type));
  py::class_<Decoder>(m, "Decoder", metaclass)
      .def(py::init(&make), py::arg("vocab"), py::arg("hidden"), py::arg("heads"), py::arg("kv_heads"),
           py::arg("head_size"), py::arg("intermediate"), py::arg("norm"), py::arg("norm_eps"), py::arg("activation"),
           py::arg("gated"), py::arg("qk_norm"), py::arg("storage"))
      .def("add_layer", &add_layer, py::arg("vectors"), py::arg("matrices"), py::arg("window"))
      .def("set_ends", &set_ends, py::arg("vectors"), py::arg("matrices"), py::arg("max_positions"),
           py::arg("unused") = 0, py::arg("unused_count") = 0)
      .def("run", &run, py::arg("ids"), py::arg("offsets"), py::arg("starts"), py::arg("rows"), py::arg("pages"),
           py::arg("pages_per_row"), py::arg("prompt"), py::arg("wanted"), py::arg("count"), py::arg("logits"),
           py::arg("targets") = 0, py::arg("log_probabilities") = 0)
      .def_property_readonly("page_bytes", &Decoder::page_bytes)
      .def_property_readonly("nbytes", &Decoder::bytes);
}

}  // namespace wordkiln::bindings
