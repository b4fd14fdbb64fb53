// A Transformer decoder for inference: whole steps over packed weights and a cache in pages, without torch.
//
// Sizes: V vocabulary, E hidden, L layers, H query heads, Hkv key heads (H a multiple of Hkv), D head size, F width of
// the MLP, N tokens of a call. Pre-norm: x += attention(norm(x)), x += mlp(norm(x)); at the end norm and head.
// Activations, sums and the softmax are float32; weights are stored as LinearStorage says, the cache is float32 beside
// float32 weights and else bfloat16.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "wordkiln/encoding.h"
#include "wordkiln/linear.h"

namespace wordkiln {

enum class DecoderNorm { kRms, kLayer };
enum class DecoderActivation { kSilu, kGelu, kGeluTanh };

constexpr int64_t kDecoderPageKeys = 64;

struct DecoderShape {
  int64_t vocab, hidden, heads, kv_heads, head_size, intermediate;
  DecoderNorm norm;
  float norm_eps;
  DecoderActivation activation;
  bool gated;    // the MLP is down(activation(gate) * up), else down(activation(up))
  bool qk_norm;  // each head of q and k has an RMS norm before it is turned
};

// A layer before packing, matrices [outputs, inputs]. Null: there is none.
struct DecoderLayerWeights {
  const float *attention_norm, *attention_norm_bias;  // [E]
  EncodedMatrix qkv;                                  // [(H + 2 Hkv) * D, E]: q, k, v
  const float* qkv_bias;                              // [(H + 2 Hkv) * D]
  const float *q_norm, *k_norm;                       // [D]
  EncodedMatrix output;                               // [E, H * D]
  const float* output_bias;                           // [E]
  const float *mlp_norm, *mlp_norm_bias;              // [E]
  EncodedMatrix gate, up;                             // [F, E]
  const float *gate_bias, *up_bias;                   // [F]
  EncodedMatrix down;                                 // [E, F]
  const float* down_bias;                             // [E]
  int64_t window;                                     // 0, or: a query sees only so many last keys, itself included
};

struct DecoderEnds {
  EncodedMatrix embedding;   // [V, E]
  EncodedMatrix head;        // [V, E], or none: the embedding
  const float* norm;         // [E]
  const float* norm_bias;    // [E], or null
  const float* positions;    // [P, E], learned, or null
  int64_t max_positions;     // P: positions of a call must be below it
  const float* frequencies;  // [D / 2] angles per position, or null: heads are not turned
  const int64_t* unused;     // [unused_count] rising ids that are no tokens: their logits are -inf
  int64_t unused_count;
};

// Row r has the tokens offsets[r] to offsets[r + 1], which stand behind starts[r] earlier ones of its own. Its page i,
// for the positions from i * kDecoderPageKeys on, lies at pages[r * pages_per_row + i] and has page_bytes() bytes; what
// a new page holds does not matter.
struct DecoderRun {
  const int64_t* ids;      // [N]
  const int64_t* offsets;  // [rows + 1], from 0 to N
  const int64_t* starts;   // [rows]
  int64_t rows;
  void* const* pages;
  int64_t pages_per_row;
  bool prompt;  // parts of prompts: beside bfloat16 and int8 weights inputs may be rounded to bfloat16 as well
  const int64_t* wanted;  // [count] of the N tokens
  int64_t count;
  float* logits;             // [count, V]; or null:
  const int64_t* targets;    // [count] ids, whose log-probabilities are wanted instead
  float* log_probabilities;  // [count]
};

class Decoder {
 public:
  Decoder(const DecoderShape& shape, LinearStorage storage);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // Both pack and keep copies. Throw std::invalid_argument where an int8 weight is not finite; std::bad_alloc.
  void add_layer(const DecoderLayerWeights& weights);
  void set_ends(const DecoderEnds& ends);

  // May run in several threads at once, on different pages. Throws std::bad_alloc.
  void run(const DecoderRun& arguments) const;

  const DecoderShape& shape() const;
  int64_t layers() const;
  int64_t max_positions() const;
  int64_t page_bytes() const;
  int64_t bytes() const;  // of packed weights
  LinearStorage storage() const;

 private:
  struct Weights;
  std::unique_ptr<Weights> weights_;
};

}  // namespace wordkiln
