#include "wordkiln/decoder.h"

#include <stdexcept>
#include <string>

#include "cpu/decoder_view.h"
#include "cpu/memory.h"
#include "cpu/table.h"

namespace wordkiln {

using cpu::Memory;

// The views point into what `kept` holds.
struct Decoder::Weights {
  DecoderShape shape;
  LinearStorage storage;
  std::vector<Memory> kept;
  std::vector<cpu::DecoderLayerView> layers;
  cpu::DecoderMatrix embedding{}, head{};
  cpu::DecoderVector norm{};
  const float* positions = nullptr;
  const float* frequencies = nullptr;
  int64_t max_positions = 0, bytes = 0;
  std::vector<int64_t> unused{};

  const cpu::DecoderKernels& kernels() const { return *cpu::kernels().decoder; }

  const float* keep(const float* values, int64_t count) {
    if (values == nullptr) return nullptr;
    kept.emplace_back(static_cast<size_t>(count) * sizeof(float));
    auto* copy = static_cast<float*>(kept.back().data());
    std::copy(values, values + count, copy);
    return copy;
  }

  cpu::DecoderVector keep_norm(const float* weight, const float* bias) {
    return {keep(weight, shape.hidden), keep(bias, shape.hidden)};
  }

  void refuse_infinite(const char* name, const EncodedMatrix& weight, int64_t outputs, int64_t inputs) const {
    const int64_t element = kernels().first_infinite(outputs, inputs, weight);
    if (element < 0) return;
    throw std::invalid_argument(std::string(name) + ": must be finite to be stored as int8; element " +
                                std::to_string(element) + " is not");
  }

  // gate: none, or as `weight`, whose outputs the packed matrix has in turns with the gate's.
  cpu::DecoderMatrix pack(const char* name, const EncodedMatrix& weight, const EncodedMatrix& gate, const float* bias,
                          int64_t outputs, int64_t inputs) {
    const int64_t lanes = kernels().lanes;
    const int64_t both = gate.data == nullptr ? outputs : 2 * ((outputs + lanes - 1) / lanes * lanes);
    kept.push_back(Memory::unset(static_cast<size_t>(kernels().packed_bytes(storage, both, inputs))));
    auto* packed = static_cast<char*>(kept.back().data());
    if (!kernels().pack(storage, outputs, inputs, weight, gate, packed)) {
      refuse_infinite(name, weight, outputs, inputs);
      refuse_infinite("gate", gate, outputs, inputs);
    }
    bytes += static_cast<int64_t>(kept.back().bytes());
    return {packed, keep(bias, outputs), both, inputs};
  }
};

Decoder::Decoder(const DecoderShape& shape, LinearStorage storage) : weights_(new Weights{shape, storage, {}, {}}) {}
Decoder::~Decoder() = default;

void Decoder::add_layer(const DecoderLayerWeights& from) {
  Weights& w = *weights_;
  const DecoderShape& s = w.shape;
  const int64_t heads = s.heads * s.head_size, qkv = heads + 2 * s.kv_heads * s.head_size;
  cpu::DecoderLayerView view = {};
  view.attention_norm = w.keep_norm(from.attention_norm, from.attention_norm_bias);
  view.mlp_norm = w.keep_norm(from.mlp_norm, from.mlp_norm_bias);
  view.q_norm = w.keep(from.q_norm, s.head_size);
  view.k_norm = w.keep(from.k_norm, s.head_size);
  view.qkv = w.pack("qkv", from.qkv, {}, from.qkv_bias, qkv, s.hidden);
  view.output = w.pack("output", from.output, {}, from.output_bias, s.hidden, heads);
  view.up = w.pack("up", from.up, from.gate, from.up_bias, s.intermediate, s.hidden);
  view.gate_bias = w.keep(from.gate_bias, s.intermediate);
  view.down = w.pack("down", from.down, {}, from.down_bias, s.hidden, s.intermediate);
  view.window = from.window;
  w.layers.push_back(view);
}

void Decoder::set_ends(const DecoderEnds& ends) {
  Weights& w = *weights_;
  const DecoderShape& s = w.shape;
  w.embedding = w.pack("embedding", ends.embedding, {}, nullptr, s.vocab, s.hidden);
  w.head = ends.head.data == nullptr ? w.embedding : w.pack("head", ends.head, {}, nullptr, s.vocab, s.hidden);
  w.norm = w.keep_norm(ends.norm, ends.norm_bias);
  w.positions = w.keep(ends.positions, ends.max_positions * s.hidden);
  w.frequencies = w.keep(ends.frequencies, s.head_size / 2);
  w.max_positions = ends.max_positions;
  w.unused.assign(ends.unused, ends.unused + ends.unused_count);
}

void Decoder::run(const DecoderRun& arguments) const {
  const Weights& w = *weights_;
  const cpu::DecoderView view = {
      .shape = w.shape,
      .storage = w.storage,
      .layers = w.layers.data(),
      .count = layers(),
      .embedding = w.embedding,
      .head = w.head,
      .norm = w.norm,
      .positions = w.positions,
      .frequencies = w.frequencies,
      .page_bytes = page_bytes(),
      .unused = w.unused.data(),
      .unused_count = static_cast<int64_t>(w.unused.size()),
  };
  w.kernels().run(view, arguments);
}

const DecoderShape& Decoder::shape() const { return weights_->shape; }
int64_t Decoder::layers() const { return static_cast<int64_t>(weights_->layers.size()); }
int64_t Decoder::max_positions() const { return weights_->max_positions; }
int64_t Decoder::bytes() const { return weights_->bytes; }
LinearStorage Decoder::storage() const { return weights_->storage; }

int64_t Decoder::page_bytes() const {
  return weights_->kernels().page_bytes(weights_->shape, weights_->storage, layers());
}

}  // namespace wordkiln
