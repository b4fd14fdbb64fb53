// The functions that are compiled once per instruction set. dispatch.cpp hands out the table in use.
#pragma once

#include "cpu/step_layer.h"
#include "wordkiln/attention.h"
#include "wordkiln/elementwise.h"
#include "wordkiln/rnn.h"

namespace wordkiln::cpu {

// The kernels of one element type; each is described in include/. Null: there is none for this type.
struct KernelSet {
  void (*attention_forward)(const AttentionForward&) = nullptr;
  void (*attention_backward)(const AttentionBackward&) = nullptr;
  void (*recurrent_forward)(const RecurrentForward&) = nullptr;
  void (*recurrent_backward)(const RecurrentBackward&) = nullptr;
  void (*elementwise)(ElementwiseFunction, const void*, void*, int64_t) = nullptr;
};

struct KernelTable {
  const char* isa;
  KernelSet float32;
  KernelSet float64;
  KernelSet bfloat16;
  const StepKernels* step;
};

// Throws std::invalid_argument as current_isa() does (isa.h).
const KernelTable& kernels();

}  // namespace wordkiln::cpu
