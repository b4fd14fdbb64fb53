// One step of an LSTM or GRU layer whose cell has layer norms (Ba, Kiros and Hinton 2016, equations 20 to 22), zoneout
// (Krueger et al. 2017) or both, forward and backward: all of the step but the product with W_hh, which is the
// caller's, before a step forward and behind one back. The maths is in docs/recurrence.md.
//
// Sizes: T time steps, B batch rows, H hidden units, G gates (LSTM 4, GRU 3, torch's order), S steps that are kept: T
// with `keep`, else 1. All arrays are contiguous, of elements of `dtype`; on a GPU (wordkiln/cuda/recurrent_cell.h)
// those marked (wide) are float32 for every type. Arrays must not overlap, except where said.
#pragma once

#include <cstdint>

#include "wordkiln/dtype.h"
#include "wordkiln/rnn.h"

namespace wordkiln {

// How much of its value before the step each element of the state keeps. A draw decides unit j of row b at step t by
// word (j % 64) / 16 of Philox4x32-10 with the counter (j / 64 * 16 + j % 16, t, 2 b, offset), for the cell 2 b + 1,
// and the key `seed`: it keeps all where the word is less than the probability times 2^32, else nothing.
struct Zoneout {
  double h, c;  // probabilities, at least 0 and less than 1; GRU: no c
  bool draws;   // else each element keeps that share: the expectation
  uint64_t seed;
  uint32_t offset;
};

// The normalised are (x - mean) * scale.
enum CellStatistic { kProductScale, kCellMean, kCellScale, kCellStatistics };

struct CellForward {
  Recurrence kind;         // kLstm or kGru
  const void* gates;       // [T, B, GH] pre-activations but for the product (GRU: and bias_new)
  void* products;          // [S, B, GH] in: W_hh h; out, with norms: normalised
  const void* gain_hh;     // [GH], or null: no norms
  const void* bias_new;    // GRU: [H] added to the new gate's product, which the reset gate multiplies; or null: zero
  const void* gain_c;      // LSTM with norms: [H]
  const void* bias_c;      // LSTM with norms: [H]
  const int64_t* lengths;  // [B], or null: T. Behind it a row's outputs are 0 and its state stays
  void* h;                 // [B, H] (wide) in: before the step; out: after it
  void* c;                 // LSTM: the same of the cells (wide)
  void* out;               // [T, B, H] hidden states
  void* activations;       // [S, B, GH] out: gates; on a GPU what each gate's sigmoid or tanh is taken of
  void* cells;             // LSTM: [S, B, H] (wide) out: c after the step
  void* hidden_new;        // GRU: [S, B, H] out: what the reset gate multiplies
  void* statistics;        // [S, B, 3] (wide) out, with norms: as CellStatistic, a GRU the first
  RecurrentSizes sizes;
  int64_t step;
  Zoneout zoneout;
  double eps;  // added to variances
  bool keep;
};

struct CellBackward {
  Recurrence kind;
  const void* activations;  // [T, B, GH] from the forward pass, as the next three
  const void* normalised;   // [T, B, GH] `products`, with norms
  const void* hidden_new;   // GRU: [T, B, H]
  const void* statistics;   // [T, B, 3] (wide), with norms
  const void* gain_hh;      // [GH], or null: no norms
  const void* gain_c;       // LSTM with norms: [H]
  const void* bias_c;       // LSTM with norms: [H]
  const int64_t* lengths;   // [B], or null: T
  const void* h0;           // GRU: [B, H] the first state
  const void* c0;           // LSTM: [B, H] (wide) the first cells
  const void* out;          // GRU: [T, B, H] from the forward pass
  const void* cells;        // LSTM: [T, B, H] (wide) from the forward pass
  const void* grad_out;     // [T, B, H], or null: zero
  void* grad_h;         // [B, H] (wide) in: gradient of h after the step; out: of h before it, but for the product's
  void* grad_c;         // LSTM: the same of the cells, all of it
  void* scratch;        // LSTM: [B, H] (wide)
  void* grad_gates;     // [T, B, GH] out: gradient of the pre-activations
  void* grad_products;  // [T, B, GH] out: gradient of W_hh h; of an LSTM without norms grad_gates itself
  void* grad_gain_hh;   // [B, GH] (wide) with norms: added to
  void* grad_gain_c;    // LSTM with norms: [B, H] (wide) added to
  void* grad_bias_c;    // LSTM with norms: [B, H] (wide) added to
  void* grad_bias_new;  // GRU: [B, H] (wide) added to
  RecurrentSizes sizes;
  int64_t step;
  Zoneout zoneout;
};

void cell_forward(DType dtype, const CellForward& arguments);
void cell_backward(DType dtype, const CellBackward& arguments);

}  // namespace wordkiln
