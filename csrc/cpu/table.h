// The functions that are compiled once per instruction set. dispatch.cpp hands out the table in use.
#pragma once

#include "wordkiln/attention.h"
#include "wordkiln/cross_entropy.h"
#include "wordkiln/elementwise.h"
#include "wordkiln/rnn.h"

namespace wordkiln::cpu {

// The kernels of one element type; each is described in include/.
struct KernelSet {
  void (*attention_forward)(const AttentionForward&);
  void (*attention_backward)(const AttentionBackward&);
  void (*lstm_forward)(const LstmForward&);
  void (*lstm_backward)(const LstmBackward&);
  void (*elementwise)(ElementwiseFunction, const void*, void*, int64_t);
  void (*linear_cross_entropy)(const LinearCrossEntropy&);
};

struct KernelTable {
  const char* isa;
  KernelSet float32;
  KernelSet float64;
};

// Throws std::invalid_argument as current_isa() does (isa.h).
const KernelTable& kernels();

}  // namespace wordkiln::cpu
