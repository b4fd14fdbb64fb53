// The recurrence of one layer in one direction over a whole sequence, forward and backward: LSTM, GRU and the plain
// one. The products that need no recurrence (input projection, gradients of weights and inputs) are the caller's.
//
// bfloat16 rounds h for its product and for the outputs, and sums in float32; a GRU goes on from its h in float32.
//
// Sizes: T time steps, B batch rows, H hidden units, G gates (4, 3 or 1). All arrays are contiguous, of elements of
// `dtype`; where that is bfloat16, c0, cells, grad_h, grad_c and grad_bias are float32. Gates are in torch's order:
// LSTM input, forget, cell, output; GRU reset, update, new. Arrays must not overlap, except where said.
#pragma once

#include <cstdint>

#include "wordkiln/dtype.h"

namespace wordkiln {

enum class Recurrence { kLstm, kGru, kTanh, kRelu };

constexpr int64_t gates_count(Recurrence kind) {
  return kind == Recurrence::kLstm ? 4 : kind == Recurrence::kGru ? 3 : 1;
}

struct RecurrentSizes {
  int64_t steps, batch, hidden;
};

struct RecurrentForward {
  Recurrence kind;
  void* gates;             // [T, B, GH] in: pre-activations but for biases and W_hh h; out, if `keep`: gates,
                           // or in bfloat16 what the gates' sigmoid and tanh are taken of
  const void* weight_hh;   // [GH, H]
  const void* bias_ih;     // [GH] added to the pre-activations; or null: zero
  const void* bias_hh;     // [GH] added to W_hh h, of which a GRU's reset gate multiplies a part; or null: zero
  const void* h0;          // [B, H]
  const void* c0;          // LSTM: [B, H]
  const int64_t* lengths;  // [B] 0 to T: behind it a row's outputs are 0 and its state stays; or null: T
  void* out;               // [T, B, H] hidden states; the plain recurrence's may be `gates`
  void* cells;             // LSTM: cell states [T, B, H] if `keep`, else the last [B, H]
  void* hidden_new;        // GRU: [T, B, H] the new gate's part of W_hh h with its bias; not used unless `keep`
  RecurrentSizes sizes;
  bool keep;  // what the backward pass needs
};

struct RecurrentBackward {
  Recurrence kind;
  const void* activations;  // [T, B, GH] `gates` from the forward pass; not used by the plain recurrence
  void* grad_gates;         // [T, B, GH] out: gradient of the pre-activations; may be `activations` itself
  const void* hidden_new;   // GRU: [T, B, H] from the forward pass
  void* grad_hidden_new;    // GRU: [T, B, H] out: its gradient; may be `hidden_new` itself
  const void* weight_hh;    // [GH, H]
  const void* h0;           // GRU: [B, H]
  const void* c0;           // LSTM: [B, H]
  const int64_t* lengths;   // [B], or null: T
  const void* out;          // [T, B, H] from the forward pass; not used by LSTM
  const void* cells;        // LSTM: [T, B, H] from the forward pass
  const void* grad_out;     // [T, B, H], or null: zero
  void* grad_h;             // [B, H] in: gradient of the last h; out: of h0
  void* grad_c;             // LSTM: [B, H] in: gradient of the last c; out: of c0
  void* grad_bias;          // [GH], GRU [GH + H] out: sums of grad_gates and grad_hidden_new; or null: not wanted
  RecurrentSizes sizes;
};

// Whether there are kernels for a type: those for bfloat16 need the tile unit.
bool has_recurrent(DType dtype);

// Both throw std::bad_alloc when their scratch (the packed weights) cannot be had.
void recurrent_forward(DType dtype, const RecurrentForward& arguments);
void recurrent_backward(DType dtype, const RecurrentBackward& arguments);

}  // namespace wordkiln
