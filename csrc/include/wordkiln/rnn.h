// The recurrence of one LSTM layer in one direction, forward and backward. The products that need no recurrence
// (input projection, gradients of weights and inputs) are the caller's.
//
// Sizes: T time steps, B batch rows, H hidden units. All arrays are contiguous, of elements of `dtype`. Gates are in
// torch's order: input, forget, cell, output. Arrays must not overlap, except where said.
#pragma once

#include <cstdint>

#include "wordkiln/dtype.h"

namespace wordkiln {

struct LstmSizes {
  int64_t steps, batch, hidden;
};

struct LstmForward {
  void* gates;            // [T, B, 4H] in: input projection and both biases; out: gate activations
  const void* weight_hh;  // [4H, H]
  const void* h0;         // [B, H]
  const void* c0;         // [B, H]
  void* out;              // [T, B, H] hidden states
  void* cells;            // [T, B, H] cell states
  LstmSizes sizes;
};

struct LstmBackward {
  const void* activations;  // [T, B, 4H] from the forward pass
  void* grad_gates;         // [T, B, 4H] out: gradient of the pre-activations; may be `activations` itself
  const void* weight_hh;    // [4H, H]
  const void* c0;           // [B, H]
  const void* cells;        // [T, B, H] from the forward pass
  const void* grad_out;     // [T, B, H], or null: zero
  void* grad_h;             // [B, H] in: gradient of the last h; out: of h0
  void* grad_c;             // [B, H] in: gradient of the last c; out: of c0
  LstmSizes sizes;
};

// Both throw std::bad_alloc when their scratch (the packed weights) cannot be had.
void lstm_forward(DType dtype, const LstmForward& arguments);
void lstm_backward(DType dtype, const LstmBackward& arguments);

}  // namespace wordkiln
