// The vocabulary loss: a linear map to the vocabulary, the cross-entropy of its softmax, and the gradients of both in
// one call that holds a few rows of logits at a time (docs/loss.md).
//
// Sizes: N rows, V words of the vocabulary (at least 1), E width. All arrays are contiguous, of elements of `dtype`
// unless said. Arrays must not overlap.
#pragma once

#include <cstdint>

#include "wordkiln/dtype.h"

namespace wordkiln {

struct LinearCrossEntropySizes {
  int64_t rows, vocabulary, width;
};

struct LinearCrossEntropy {
  const void* hidden;      // [N, E]
  const void* weight;      // [V, E]
  const void* bias;        // [V], or null
  const int64_t* targets;  // [N] 0 to V - 1, or ignore_index: the row is skipped
  double* loss;            // out: the sum over the rows that count; their mean if `mean`, NaN where there is none
  void* grad_hidden;       // [N, E] out, or null: not wanted
  void* grad_weight;       // [V, E] out, or null
  void* grad_bias;         // [V] out, or null
  LinearCrossEntropySizes sizes;
  int64_t ignore_index;
  double label_smoothing;  // share of the target's probability that is spread over all V
  double z_loss;           // this times the squared log of the normaliser is added to each row's loss
  bool mean;
};

// Whether this processor has a kernel for the type: bfloat16 takes a tile unit.
bool has_linear_cross_entropy(DType dtype);

// Throws std::bad_alloc when its scratch cannot be had.
void linear_cross_entropy(DType dtype, const LinearCrossEntropy& arguments);

}  // namespace wordkiln
