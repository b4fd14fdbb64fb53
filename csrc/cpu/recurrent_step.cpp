#include "wordkiln/recurrent_step.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "cpu/memory.h"
#include "cpu/table.h"

namespace wordkiln {
namespace {

using cpu::Memory;

size_t size_of(WeightStorage storage) {
  return storage == WeightStorage::kFloat32 ? 4 : storage == WeightStorage::kBfloat16 ? 2 : 1;
}

void check_finite(const char* name, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) {
      throw std::invalid_argument(std::string(name) + ": must be finite to be stored as int8; element " +
                                  std::to_string(i) + " is not");
    }
  }
}

}  // namespace

struct RecurrentStep::Layer {
  Memory weights, scales, biases;
  int64_t bytes;
  cpu::StepLayer view;
};

RecurrentStep::RecurrentStep(Recurrence kind, WeightStorage storage) : kind_(kind), storage_(storage) {}
RecurrentStep::~RecurrentStep() = default;
RecurrentStep::RecurrentStep(RecurrentStep&&) noexcept = default;

void RecurrentStep::add_layer(const RecurrentWeights& from) {
  if (from.hidden < 1) throw std::invalid_argument("hidden=" + std::to_string(from.hidden) + ": must be at least 1");
  if (!layers_.empty() && (from.inputs != hidden() || from.hidden != hidden())) {
    throw std::invalid_argument("inputs=" + std::to_string(from.inputs) + ", hidden=" + std::to_string(from.hidden) +
                                ": must both be " + std::to_string(hidden()) + ", as the layer below");
  }
  const int64_t gates = gates_count(kind_);
  if (storage_ == WeightStorage::kInt8) {
    check_finite("weight_ih", from.weight_ih, gates * from.hidden * from.inputs);
    check_finite("weight_hh", from.weight_hh, gates * from.hidden * from.hidden);
  }
  const cpu::StepKernels& kernels = *cpu::kernels().step;
  const int64_t blocks = (from.hidden + kernels.lanes - 1) / kernels.lanes, width = gates * kernels.lanes;
  const auto bytes = static_cast<int64_t>(blocks * (from.inputs + from.hidden) * width * size_of(storage_));
  const size_t scales = storage_ == WeightStorage::kInt8 ? blocks * 2 * width * sizeof(float) : 0;
  Layer layer = {Memory(bytes), Memory(scales), Memory(blocks * (width + kernels.lanes) * sizeof(float)), bytes, {}};
  layer.view = {
      .kind = kind_,
      .storage = storage_,
      .inputs = from.inputs,
      .hidden = from.hidden,
      .blocks = blocks,
      .weights = layer.weights.data(),
      .scales = static_cast<float*>(layer.scales.data()),
      .biases = static_cast<float*>(layer.biases.data()),
  };
  kernels.pack(layer.view, from);
  layers_.push_back(std::move(layer));
}

void RecurrentStep::step(const float* x, float* h, float* c, int64_t batch) const { read(x, h, c, nullptr, 1, batch); }

void RecurrentStep::read(const float* x, float* h, float* c, float* out, int64_t steps, int64_t batch) const {
  if (layers_.empty() || batch == 0 || steps == 0) return;
  std::vector<cpu::StepLayer> views;
  for (const Layer& layer : layers_) views.push_back(layer.view);
  cpu::kernels().step->run({views.data(), layers(), batch, steps, x, h, c, out});
}

int64_t RecurrentStep::layers() const { return static_cast<int64_t>(layers_.size()); }
int64_t RecurrentStep::inputs() const { return layers_.empty() ? 0 : layers_.front().view.inputs; }
int64_t RecurrentStep::hidden() const { return layers_.empty() ? 0 : layers_.front().view.hidden; }

int64_t RecurrentStep::bytes() const {
  int64_t sum = 0;
  for (const Layer& layer : layers_) sum += layer.bytes;
  return sum;
}

}  // namespace wordkiln
