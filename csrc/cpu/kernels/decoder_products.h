// The products of a decoder's pass, shared by a team of threads: who computes what, and where the threads meet.
#pragma once

#include "cpu/kernels/decoder_rows.h"
#include "cpu/kernels/packed_linear_amx.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kPrivateRows = 4;
// Rows of a prompt that are one unit of a product, and pieces of a layer's work that threads share by units: four
// products and attention.
constexpr int64_t kBlockRows = 256, kPieces = 5;
// What a thread asks for while it waits: a part of its second cache; so many lines between two looks at the others.
constexpr int64_t kMostAhead = 256 << 10;
constexpr int kLinesAtOnce = 8;

// A thread and what only it writes to.
struct Team {
  int thread, threads;
  int64_t piece;  // of the shared work: which comes next
  float* normed;
  uint32_t* words;  // of the tile unit
  float* panel;     // [rows, kPanelWidth]
  float* scratch;   // of attention
};

// A part of a product: some vectors of a panel for some rows.
struct ProductPart {
  int64_t panel, first;  // output
  Range vectors, rows;
  int64_t columns() const { return (vectors.end - vectors.begin) * kLanes<float>; }
  int64_t columns_of(int64_t outputs) const { return outputs - first < columns() ? outputs - first : columns(); }
};

inline int64_t largest_of(int64_t a, int64_t b, int64_t c) { return a > b ? (a > c ? a : c) : (b > c ? b : c); }

// kAmx: whether there is a tile unit.
template <bool kAmx>
class DecoderProducts {
 public:
  DecoderProducts(const DecoderView& view, const DecoderRun& run)
      : view_(view),
        run_(run),
        tokens_(run.offsets[run.rows]),
        rows_(tokens_ > run.count ? tokens_ : run.count),
        widest_(largest_of(view.shape.hidden, view.shape.heads * view.shape.head_size, view.shape.intermediate)) {}

  // Takes the memory that the threads have in common.
  void take_shared(Parts& parts) {
    normed_ = parts.template take<float>(rows_ * view_.shape.hidden);
    halves_ = parts.template take<uint16_t>(tiled() ? tiled_rows(rows_) * rounded_inputs(widest_) : 0);
    taken_ = parts.template take<int64_t>(kPieces * view_.count + 1);
  }

  void clear_taken() {
    for (int64_t i = 0; i <= kPieces * view_.count; ++i) taken_[i] = 0;
  }

  // Takes a thread's own memory.
  void take_own(Parts& parts, Team& team) const {
    team.normed = parts.template take<float>(kPrivateRows * view_.shape.hidden);
    team.words = parts.template take<uint32_t>(tiled() ? tile_words(widest_) : 0);
    team.panel = parts.template take<float>(rows_ * kPanelWidth);
  }

  // Whether products are the tile unit's. That is not for the number of rows to decide: a row's result must not depend
  // on the others.
  bool tiled() const { return kAmx && run_.prompt; }

  // Rows for a product: normed where there is a norm, rounded for the tile unit. row(i): the input of row i.
  template <typename Row>
  LinearRows prepare(const Team& team, int64_t count, int64_t inputs, const DecoderVector* norm, Row row) {
    if (norm == nullptr && !tiled()) return {row(0), inputs};
    const bool alone = count <= kPrivateRows && !tiled();
    float* normed = alone ? team.normed : normed_;
    const Range mine = alone ? Range{0, count} : split(count, team.thread, team.threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const float* x = row(i);
      if (norm != nullptr) {
        float* to = tiled() ? team.normed : normed + i * inputs;
        normalise(view_.shape, *norm, x, inputs, to);
        x = to;
      }
      if (tiled()) round_row(x, inputs, halves_, i);
    }
    if (!alone) meet(team);
    return {normed, inputs, halves_};
  }

  // out[N, columns] (+)= rows times a part of a panel.
  void multiply(const Team& team, const DecoderMatrix& m, const LinearRows& rows, const ProductPart& part, float* out,
                int64_t out_row, int64_t columns, bool accumulate) const {
    const PackedWeights w = {view_.storage, m.packed, m.outputs, m.inputs};
    const int64_t first = part.rows.begin, count = part.rows.end - first;
    if (tiled()) {
      multiply_panel_part_amx(w, rows, count, part.panel, part.vectors, team.words, out, out_row, columns, accumulate);
    } else {
      multiply_panel_part(w, {rows.values + first * rows.stride, rows.stride}, count, part.panel, part.vectors,
                          out + first * out_row, out_row, columns, accumulate);
    }
  }

  // What takes the units of the next piece of work one by one. In a prompt they go to whatever thread is free: on a
  // shared machine one of them is often slower, and what is cut in advance waits for it. No result depends on it.
  auto units_of(Team& team) {
    int64_t* taken = run_.prompt ? taken_ + team.piece++ : nullptr;
    return [taken, unit = int64_t{team.thread} - team.threads, threads = team.threads]() mutable {
      return taken ? __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED) : unit += threads;
    };
  }

  // body(part) for this thread's vectors out of `vectors`, which are cut evenly by multiples of `multiple`.
  template <typename Body>
  void for_my_vectors(const Team& team, int64_t count, int64_t vectors, int64_t multiple, Body body) const {
    const Range mine = split(vectors / multiple, team.thread, team.threads);
    for_panels({multiple * mine.begin, multiple * mine.end},
               [&](int64_t panel, Range part, int64_t first) { body(ProductPart{panel, first, part, {0, count}}); });
  }

  // body(part) for this thread's parts of a product of `count` rows.
  template <typename Body>
  void for_my_parts(Team& team, int64_t count, int64_t vectors, int64_t multiple, Body body) {
    if (!run_.prompt) return for_my_vectors(team, count, vectors, multiple, body);
    // The tile unit takes pairs of vectors, and all rows: codes are widened once for them.
    const int64_t size = tiled() ? 2 : kTileVectors, chunks = (vectors + size - 1) / size;
    const int64_t blocks = tiled() ? 1 : (count + kBlockRows - 1) / kBlockRows;
    auto next = units_of(team);
    for (int64_t unit; (unit = next()) < chunks * blocks;) {
      const int64_t vector = unit / blocks * size, left = vectors - vector, first = vector % kTileVectors;
      body(ProductPart{vector / kTileVectors,
                       vector * kLanes<float>,
                       {first, first + (left < size ? left : size)},
                       split(count, unit % blocks, blocks)});
    }
  }

  void meet(const Team& team) { barrier_.wait(team.threads); }

  // Meets the others behind one product; in a step it asks meanwhile for its part of the next one's weights, outputs by
  // `multiple` vectors.
  void meet(const Team& team, const DecoderMatrix& next, int64_t multiple) {
    if (run_.prompt) return meet(team);
    const Range mine = split(vectors_of(next.outputs) / multiple, team.thread, team.threads);
    const int64_t panel = panel_bytes(view_.storage, next.inputs);
    const char* at = next.packed + mine.begin * multiple / kTileVectors * panel;
    const int64_t bytes = (mine.end - mine.begin) * multiple * panel / kTileVectors;
    const char* const end = at + (bytes < kMostAhead ? bytes : kMostAhead);
    barrier_.wait(team.threads, [&at, end] {
      if (at >= end) return false;
      for (int line = 0; line < kLinesAtOnce; ++line, at += 64) __builtin_prefetch(at, 0, 2);
      return true;
    });
  }

  // out[N, outputs] (+)= rows times m, and its bias.
  void product(Team& team, const DecoderMatrix& m, const LinearRows& rows, float* out, bool accumulate) {
    for_my_parts(team, tokens_, vectors_of(m.outputs), 1, [&](const ProductPart& part) {
      const int64_t columns = part.columns_of(m.outputs);
      multiply(team, m, rows, part, out + part.first, m.outputs, columns, accumulate);
      for (int64_t i = part.rows.begin; m.bias && i < part.rows.end; ++i) {
        float* to = out + i * m.outputs + part.first;
        for_vectors<float>(0, columns, [&](int64_t j, int n) {
          store(to + j, load(to + j, n) + load(m.bias + part.first + j, n), n);
        });
      }
    });
  }

 private:
  const DecoderView& view_;
  const DecoderRun& run_;
  int64_t tokens_, rows_, widest_;  // rows: the most of a product; widest: its most inputs
  SpinBarrier barrier_;
  float* normed_;
  uint16_t* halves_;
  int64_t* taken_;  // [pieces]: units of the shared work that threads have taken
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
