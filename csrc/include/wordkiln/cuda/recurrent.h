// The recurrence of one LSTM or GRU layer in one direction on a GPU: what wordkiln/rnn.h does on a CPU, over memory of
// the current device. Nothing is allocated and nothing waits: kernels are put on `stream` and use `workspace`, which
// must live until they are done.
//
// T steps, B batch rows, H hidden units, G gates (LSTM 4, GRU 3, torch's order). Arrays are contiguous, of float32,
// bfloat16 or float16; those that say so are float32 for every type, as is all that is computed and summed. The
// recurrent weights' rows are P = weight_pitch(dtype, H) elements long with zeros behind H, and start at a multiple of
// 16 bytes.
//
// Lengths lie on the device and cannot be looked at without waiting: one below 0 counts as 0, one above T as T.
#pragma once

#include <cstdint>

#include "wordkiln/cuda/runtime.h"
#include "wordkiln/rnn.h"

namespace wordkiln::cuda {

struct LayerForward {
  Recurrence kind;  // kLstm or kGru
  // [T, B, GH] in: pre-activations but for W_hh h (GRU: and bias_new); out, if `keep`: what each gate's sigmoid or tanh
  // is taken of.
  void* gates;
  const void* weight_hh;   // [G, H, P]
  const void* bias_new;    // GRU: [H], or null: zero
  float* h;                // [B, H] in: first state; out: last state
  float* c;                // LSTM: the same of the cells
  const int64_t* lengths;  // [B], or null: T
  void* out;               // [T, B, H] hidden states; 0 behind a row's length
  float* cells;            // LSTM: [T, B, H], if `keep`
  void* hidden_new;        // GRU: [T, B, H] the new gate's part of W_hh h with its bias, if `keep`
  RecurrentSizes sizes;
  bool keep;  // what the backward pass needs
};

struct LayerBackward {
  Recurrence kind;
  const void* gates;        // [T, B, GH] from the forward pass
  void* grad_gates;         // [T, B, GH] out: gradient of the pre-activations
  const void* hidden_new;   // GRU: [T, B, H] from the forward pass
  void* grad_hidden_new;    // GRU: [T, B, H] out: its gradient
  const void* weight_hh_t;  // [H, G, P]: for each unit, what it gives to each gate of each unit
  const void* h0;           // GRU: [B, H], or null: zero
  const void* c0;           // LSTM: [B, H], or null: zero
  const int64_t* lengths;   // [B], or null: T
  const void* out;          // GRU: [T, B, H] from the forward pass
  const float* cells;       // LSTM: [T, B, H] from the forward pass
  const void* grad_out;     // [T, B, H], or null: zero
  float* grad_h;            // [B, H] in: gradient of the last h; out: of the first
  float* grad_c;            // LSTM: the same of the cells
  RecurrentSizes sizes;
};

// Elements of a row of recurrent weights: `hidden`, of 16-bit types rounded up to a multiple of 8.
int64_t weight_pitch(DType dtype, int64_t hidden);

// Scratch in bytes, aligned to 16.
int64_t recurrent_forward_workspace(DType dtype, const LayerForward& arguments);
int64_t recurrent_backward_workspace(DType dtype, const LayerBackward& arguments);

void recurrent_forward(DType dtype, const LayerForward& arguments, void* workspace, Stream stream);
void recurrent_backward(DType dtype, const LayerBackward& arguments, void* workspace, Stream stream);

}  // namespace wordkiln::cuda
