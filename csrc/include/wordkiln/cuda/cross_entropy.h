// The softmax of a few rows of logits on a GPU: their cross-entropy, and its gradient in their place. The products
// around it are the caller's. Nothing is allocated and nothing waits: the kernel is put on `stream`.
//
// N rows, V words (at least 1). Targets lie on the device and cannot be looked at without waiting: one that is neither
// a word nor `ignore_index` makes the row's loss and gradient NaN.
#pragma once

#include <cstdint>

#include "wordkiln/cuda/runtime.h"

namespace wordkiln::cuda {

struct SoftmaxGradient {
  void* logits;            // [N, pitch] in: without the bias; out, if `gradient`: the gradient of the sum of the losses
  const void* bias;        // [V] of the logits' type, or null
  const int64_t* targets;  // [N]
  float* losses;           // [N] out: 0 where the target is ignore_index, as the gradient is
  int64_t rows, vocabulary;
  int64_t pitch;  // elements from row to row, whole 16 bytes and at least V; the logits' address is a multiple of 16
  int64_t ignore_index;
  double label_smoothing;  // share of the target's probability that is spread over all V
  double z_loss;           // this times the squared log of the normaliser is added to each row's loss
  bool gradient;
};

void softmax_gradient(DType dtype, const SoftmaxGradient& arguments, Stream stream);

}  // namespace wordkiln::cuda
