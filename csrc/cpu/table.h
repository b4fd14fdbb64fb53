// The functions that are compiled once per instruction set. dispatch.cpp hands out the table in use.
#pragma once

#include "cpu/decoder_view.h"
#include "cpu/step_layer.h"
#include "wordkiln/activation.h"
#include "wordkiln/attention.h"
#include "wordkiln/cross_entropy.h"
#include "wordkiln/elementwise.h"
#include "wordkiln/linear.h"
#include "wordkiln/norm.h"
#include "wordkiln/recurrent_cell.h"
#include "wordkiln/rnn.h"
#include "wordkiln/rotary.h"

namespace wordkiln::cpu {

// The kernels of one element type; each is described in include/. Null: there is none for this type.
struct KernelSet {
  void (*attention_forward)(const AttentionForward&) = nullptr;
  void (*attention_backward)(const AttentionBackward&) = nullptr;
  void (*rotary)(const Rotary&) = nullptr;
  void (*recurrent_forward)(const RecurrentForward&) = nullptr;
  void (*recurrent_backward)(const RecurrentBackward&) = nullptr;
  void (*cell_forward)(const CellForward&) = nullptr;
  void (*cell_backward)(const CellBackward&) = nullptr;
  void (*linear_cross_entropy)(const LinearCrossEntropy&) = nullptr;
  void (*rms_norm_forward)(const RmsNormForward&) = nullptr;
  void (*rms_norm_backward)(const RmsNormBackward&) = nullptr;
  void (*gelu_forward)(const GeluForward&) = nullptr;
  void (*gelu_backward)(const GeluBackward&) = nullptr;
  void (*swiglu_forward)(const SwigluForward&) = nullptr;
  void (*swiglu_backward)(const SwigluBackward&) = nullptr;
  void (*elementwise)(ElementwiseFunction, const void*, void*, int64_t) = nullptr;
};

struct KernelTable {
  const char* isa;
  KernelSet float32;
  KernelSet float64;
  KernelSet bfloat16;
  size_t (*linear_packed_bytes)(LinearStorage, const LinearSizes&);
  void (*linear_pack)(LinearStorage, const LinearSizes&, const float*, void*);
  void (*linear_run)(const LinearRun&);
  void (*linear_unpack)(LinearStorage, const LinearSizes&, const void*, const int64_t*, int64_t, float*);
  const StepKernels* step;
  const DecoderKernels* decoder;
};

// Throws std::invalid_argument as current_isa() does (isa.h).
const KernelTable& kernels();

}  // namespace wordkiln::cpu
