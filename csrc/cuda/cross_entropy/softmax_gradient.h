// A block takes a row of logits: it goes through it once for the normaliser (Milakov and Gimelshein 2018: the largest
// so far and the sum relative to it), and, while the row is in L2, once more for the gradient.
#pragma once

#include <cmath>
#include <cstring>

#include "cuda/device/device.h"
#include "cuda/device/launch.h"
#include "wordkiln/cuda/cross_entropy.h"

namespace wordkiln::cuda {

constexpr int kSoftmaxWarps = 8, kSoftmaxThreads = 32 * kSoftmaxWarps;
constexpr float kSoftmaxLog2e = 1.44269504f;

// What is known of the logits seen so far. Not -inf for none: -inf - -inf would be NaN.
struct SoftmaxStatistics {
  float largest = -3.402823466e38f;
  float total = 0.0f;  // of exp(logit - largest)
  float sum = 0.0f;    // of the logits

  WORDKILN_DEVICE void add(const SoftmaxStatistics& other) {
    const float top = fmaxf(largest, other.largest);
    total = total * device::exp2_fast((largest - top) * kSoftmaxLog2e) +
            other.total * device::exp2_fast((other.largest - top) * kSoftmaxLog2e);
    largest = top;
    sum += other.sum;
  }
};

struct SoftmaxShared {
  SoftmaxStatistics warps[kSoftmaxWarps];
};

template <typename T>
class SoftmaxRow {
  static constexpr int kPart = 16 / sizeof(T);  // logits that are read together

 public:
  WORDKILN_DEVICE SoftmaxRow(const SoftmaxGradient& a, int row)
      : logits_(static_cast<T*>(a.logits) + row * a.pitch),
        bias_(static_cast<const T*>(a.bias)),
        words_(static_cast<int>(a.vocabulary)) {}

  WORDKILN_DEVICE float logit(int word) const { return biased(device::to_float(logits_[word]), word); }

  WORDKILN_DEVICE SoftmaxStatistics statistics(SoftmaxShared& s) const {
    SoftmaxStatistics own;
    for (int first = device::thread_index() * kPart; first < words_; first += kSoftmaxThreads * kPart) {
      float part[kPart];
      load(first, part);
      own.add(of(part, first));
    }
    WORDKILN_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) {
      SoftmaxStatistics other;
      other.largest = device::shfl_xor(own.largest, mask);
      other.total = device::shfl_xor(own.total, mask);
      other.sum = device::shfl_xor(own.sum, mask);
      own.add(other);
    }
    if (device::lane() == 0) s.warps[device::warp_index()] = own;
    device::sync_block();
    own = s.warps[0];
    WORDKILN_UNROLL
    for (int warp = 1; warp < kSoftmaxWarps; ++warp) own.add(s.warps[warp]);
    return own;
  }

  // Every logit becomes exp(logit - largest) * factor - shift, that of the target less `at_target`.
  WORDKILN_DEVICE void replace(float largest, float factor, float shift, int64_t target, float at_target) {
    for (int first = device::thread_index() * kPart; first < words_; first += kSoftmaxThreads * kPart) {
      float part[kPart];
      load(first, part);
      WORDKILN_UNROLL
      for (int i = 0; i < kPart; ++i) {
        part[i] = device::exp2_fast((part[i] - largest) * kSoftmaxLog2e) * factor - shift;
        if (first + i == target) part[i] -= at_target;
      }
      store(first, part);
    }
  }

  WORDKILN_DEVICE void clear() {
    const float zeros[kPart] = {};
    for (int first = device::thread_index() * kPart; first < words_; first += kSoftmaxThreads * kPart) {
      store(first, zeros);
    }
  }

 private:
  WORDKILN_DEVICE float biased(float logit, int word) const {
    return bias_ == nullptr ? logit : logit + device::to_float(bias_[word]);
  }

  WORDKILN_DEVICE void load(int first, float (&part)[kPart]) const {
    const device::Chunk chunk = *reinterpret_cast<const device::Chunk*>(logits_ + first);
    T elements[kPart];
    memcpy(elements, &chunk, sizeof chunk);
    WORDKILN_UNROLL
    for (int i = 0; i < kPart; ++i) {
      // What stands behind the last word is no logit.
      part[i] = first + i < words_ ? biased(device::to_float(elements[i]), first + i) : -INFINITY;
    }
  }

  WORDKILN_DEVICE void store(int first, const float (&part)[kPart]) {
    T elements[kPart];
    WORDKILN_UNROLL
    for (int i = 0; i < kPart; ++i) elements[i] = device::from_float<T>(part[i]);
    device::Chunk chunk;
    memcpy(&chunk, elements, sizeof chunk);
    *reinterpret_cast<device::Chunk*>(logits_ + first) = chunk;
  }

  WORDKILN_DEVICE SoftmaxStatistics of(const float (&part)[kPart], int first) const {
    SoftmaxStatistics own;
    WORDKILN_UNROLL
    for (int i = 0; i < kPart; ++i) own.largest = fmaxf(own.largest, part[i]);
    WORDKILN_UNROLL
    for (int i = 0; i < kPart; ++i) {
      own.total += device::exp2_fast((part[i] - own.largest) * kSoftmaxLog2e);
      if (first + i < words_) own.sum += part[i];
    }
    return own;
  }

  T* logits_;
  const T* bias_;
  int words_;
};

template <typename T>
WORDKILN_KERNEL(kSoftmaxThreads)
softmax_gradient_kernel(const SoftmaxGradient a) {
  const int at = device::block_index();
  const int64_t target = a.targets[at];
  SoftmaxRow<T> row(a, at);
  if (target == a.ignore_index) {
    if (device::thread_index() == 0) a.losses[at] = 0.0f;
    if (a.gradient) row.clear();
    return;
  }
  const bool is_word = target >= 0 && target < a.vocabulary;
  const float at_target = is_word ? row.logit(static_cast<int>(target)) : NAN;  // read before it is replaced
  const SoftmaxStatistics all = row.statistics(device::shared<SoftmaxShared>());
  const float smoothing = static_cast<float>(a.label_smoothing), z_loss = static_cast<float>(a.z_loss);
  const float words = static_cast<float>(a.vocabulary), log_total = logf(all.total);
  const float normaliser = all.largest + log_total;
  if (device::thread_index() == 0) {
    float loss = log_total - (1.0f - smoothing) * (at_target - all.largest) + z_loss * normaliser * normaliser;
    if (smoothing != 0) loss -= smoothing * (all.sum / words - all.largest);
    a.losses[at] = loss;
  }
  if (!a.gradient) return;
  const float factor = is_word ? (1.0f + 2.0f * z_loss * normaliser) / all.total : NAN;
  row.replace(all.largest, factor, smoothing / words, target, 1.0f - smoothing);
}

template <typename T>
void launch_softmax_gradient(const SoftmaxGradient& a, Stream stream) {
  if (a.rows == 0) return;
  device::launch(&softmax_gradient_kernel<T>, static_cast<int>(a.rows), kSoftmaxThreads, sizeof(SoftmaxShared), stream,
                 device::Launch::kIndependent, a);
}

}  // namespace wordkiln::cuda
