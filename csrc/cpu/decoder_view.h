// What Decoder hands to its kernels.
#pragma once

#include "wordkiln/decoder.h"

namespace wordkiln::cpu {

struct DecoderMatrix {
  const char* packed;
  const float* bias;  // or null; as the packed outputs
  int64_t outputs, inputs;
};

struct DecoderVector {
  const float* weight;
  const float* bias;  // or null
};

struct DecoderLayerView {
  DecoderVector attention_norm, mlp_norm;
  const float *q_norm, *k_norm;
  // up: with a gate its vectors and those of the gate take turns, the gate's first.
  DecoderMatrix qkv, output, up, down;
  const float* gate_bias;  // or null
  int64_t window;
};

struct DecoderView {
  DecoderShape shape;
  LinearStorage storage;
  const DecoderLayerView* layers;
  int64_t count;
  DecoderMatrix embedding, head;
  DecoderVector norm;
  const float* positions;
  const float* frequencies;
  int64_t page_bytes;
  const int64_t* unused;  // [unused_count], rising
  int64_t unused_count;
};

struct DecoderKernels {
  int64_t lanes;
  int64_t panel_width;
  int64_t (*packed_bytes)(LinearStorage storage, int64_t outputs, int64_t inputs);
  // weight and gate: [outputs, inputs]. With a gate the packed outputs are `lanes` of the gate's and of weight's in
  // turns. Returns whether all weights are finite where the storage needs it.
  bool (*pack)(LinearStorage storage, int64_t outputs, int64_t inputs, const EncodedMatrix& weight,
               const EncodedMatrix& gate, char* packed);
  // The first element that is not finite, or -1.
  int64_t (*first_infinite)(int64_t outputs, int64_t inputs, const EncodedMatrix& weight);
  int64_t (*page_bytes)(const DecoderShape& shape, LinearStorage storage, int64_t layers);
  void (*run)(const DecoderView& view, const DecoderRun& arguments);
};

}  // namespace wordkiln::cpu
