// Time steps of stacked recurrent layers for a few rows, as decoding needs them: the weights are packed once and kept,
// in float32, bfloat16 or int8 (a scale for each gate row), and everything is computed in float32.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "wordkiln/rnn.h"

namespace wordkiln {

enum class WeightStorage { kFloat32, kBfloat16, kInt8 };

// A layer's weights before packing, float32, as in rnn.h. Only read by RecurrentStep::add_layer.
struct RecurrentWeights {
  const float* weight_ih;  // [GH, I]
  const float* weight_hh;  // [GH, H]
  const float* bias_ih;    // [GH], or null: zero
  const float* bias_hh;    // [GH], or null: zero
  int64_t inputs, hidden;
};

class RecurrentStep {
 public:
  RecurrentStep(Recurrence kind, WeightStorage storage);
  ~RecurrentStep();
  RecurrentStep(RecurrentStep&&) noexcept;
  RecurrentStep(const RecurrentStep&) = delete;
  RecurrentStep& operator=(const RecurrentStep&) = delete;

  // Packs a layer on top of those there are. Throws std::invalid_argument when its inputs are not as many as the last
  // layer's units, its units not as many as the first's, or an int8 weight not finite; std::bad_alloc.
  void add_layer(const RecurrentWeights& weights);

  // Advances `batch` rows by a step: x [B, I]; h and c [layers, B, H] are overwritten (c: LSTM). The output is h of the
  // last layer. May run in several threads at once, on different states. Throws std::bad_alloc.
  void step(const float* x, float* h, float* c, int64_t batch) const;

  // The same for `steps` steps, a layer after the other: x [T, B, I], out [T, B, H], the last layer's. The inputs' part
  // of a layer's gates is one product, which reads its weights once; it is kept for the time of the call, T * B * GH
  // floats. The sums of that product may be in another order than a step's.
  void read(const float* x, float* h, float* c, float* out, int64_t steps, int64_t batch) const;

  int64_t layers() const;
  int64_t inputs() const;  // 0 without a layer; so is hidden()
  int64_t hidden() const;
  int64_t bytes() const;  // of packed weights: what a step reads
  Recurrence kind() const { return kind_; }

 private:
  struct Layer;
  Recurrence kind_;
  WeightStorage storage_;
  std::vector<Layer> layers_;
};

}  // namespace wordkiln
