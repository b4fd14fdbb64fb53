// What a decoder does to single rows, and the memory of a pass.
#pragma once

#include "cpu/decoder_view.h"
#include "cpu/kernels/math.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

inline void normalise(const DecoderShape& shape, const DecoderVector& norm, const float* x, int64_t width, float* out) {
  Vec<float> sums = {};
  float mean = 0;
  const float count = static_cast<float>(width);
  if (shape.norm == DecoderNorm::kLayer) {
    for_vectors<float>(0, width, [&](int64_t j, int n) { sums += load(x + j, n); });
    mean = sum<float>(sums) / count;
    sums = Vec<float>{};
  }
  for_vectors<float>(0, width, [&](int64_t j, int n) {
    Vec<float> y = load(x + j, n) - mean;
    if (n < kLanes<float>) y = lane_numbers<float>() < n ? y : Vec<float>{};
    sums += y * y;
  });
  const float scale = 1 / static_cast<float>(__builtin_sqrt(sum<float>(sums) / count + shape.norm_eps));
  for_vectors<float>(0, width, [&](int64_t j, int n) {
    const Vec<float> y = (load(x + j, n) - mean) * scale * load(norm.weight + j, n);
    store(out + j, norm.bias ? y + load(norm.bias + j, n) : y, n);
  });
}

WORDKILN_INLINE Vec<float> activate(DecoderActivation activation, Vec<float> x) {
  switch (activation) {
    case DecoderActivation::kSilu:
      return x * sigmoid<float>(x);
    case DecoderActivation::kGelu:
      return x * (0.5f + 0.5f * erf<float>(x * 0.70710678118654752f));
    case DecoderActivation::kGeluTanh:  // (1 + tanh(u)) / 2 = sigmoid(2 u)
      return x * sigmoid<float>(x * (1.5957691216057307f + 0.071354816272600253f * x * x));
  }
  __builtin_unreachable();
}

// More logits of a row into its softmax: the highest so far, and the sum of exp(logit - highest).
inline void add_to_total(const float* logits, int64_t columns, float& highest, double& total) {
  Vec<float> most = broadcast(-__builtin_inff()), sums = {};
  for_vectors<float>(0, columns, [&](int64_t j, int n) {
    const Vec<float> x = load(logits + j, n);
    most = max<float>(n < kLanes<float> ? (lane_numbers<float>() < n ? x : most) : x, most);
  });
  const float here = largest<float>(most);
  if (here > highest) {
    total *= __builtin_exp(static_cast<double>(highest - here));
    highest = here;
  }
  for_vectors<float>(0, columns, [&](int64_t j, int n) {
    const Vec<float> weight = exp<float>(load(logits + j, n) - highest);
    sums += n < kLanes<float> ? (lane_numbers<float>() < n ? weight : Vec<float>{}) : weight;
  });
  total += static_cast<double>(sum<float>(sums));
}

// Hands out parts of one block of memory, each on its own cache line.
class Parts {
 public:
  explicit Parts(char* memory) : memory_(reinterpret_cast<uintptr_t>(memory)) {}

  template <typename T>
  T* take(int64_t count) {
    T* part = reinterpret_cast<T*>(memory_ + static_cast<uintptr_t>(used_));
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return part;
  }
  int64_t used() const { return used_; }

 private:
  uintptr_t memory_;  // a number: the sizes are added up before there is any memory
  int64_t used_ = 0;
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
