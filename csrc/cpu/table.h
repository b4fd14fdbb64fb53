// The functions that are compiled once per instruction set. dispatch.cpp hands out the table in use.
#pragma once

#include "wordkiln/activation.h"
#include "wordkiln/attention.h"
#include "wordkiln/cross_entropy.h"
#include "wordkiln/elementwise.h"
#include "wordkiln/linear.h"
#include "wordkiln/norm.h"
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
  void (*rms_norm_forward)(const RmsNormForward&);
  void (*rms_norm_backward)(const RmsNormBackward&);
  void (*swiglu_forward)(const SwigluForward&);
  void (*swiglu_backward)(const SwigluBackward&);
};

struct KernelTable {
  const char* isa;
  KernelSet float32;
  KernelSet float64;
  size_t (*linear_packed_bytes)(LinearStorage, const LinearSizes&);
  void (*linear_pack)(LinearStorage, const LinearSizes&, const float*, void*);
  void (*linear_run)(const LinearRun&);
};

// Throws std::invalid_argument as current_isa() does (isa.h).
const KernelTable& kernels();

}  // namespace wordkiln::cpu
