// What the passes over a sequence share: how the work is cut.
#pragma once

#include "cpu/kernels/parallel.h"
#include "wordkiln/rnn.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// The part of one thread: rows of the batch, and blocks of hidden units.
struct RecurrentPart {
  Range rows, blocks;
  bool shares_rows;  // other threads compute other units of the same rows: they must meet after each step
};

// With 8 rows for each thread the batch is cut, which needs no barrier; else the hidden units are.
inline RecurrentPart recurrent_part(int64_t batch, int64_t blocks, int thread, int threads) {
  if (batch >= 8 * threads || threads == 1) return {split(batch, thread, threads), {0, blocks}, false};
  return {{0, batch}, split(blocks, thread, threads), true};
}

inline int recurrent_threads(int64_t gates, int64_t batch, int64_t hidden) {
  return threads_for(static_cast<double>(gates * batch) * static_cast<double>(hidden) * static_cast<double>(hidden));
}

// How many steps of a row there are, of at most `steps`.
inline int64_t row_length(const int64_t* lengths, int64_t row, int64_t steps) {
  return lengths == nullptr ? steps : lengths[row];
}

// Arrays that a recurrence does not have are null, and stay so.
template <typename T>
inline T* shifted(T* data, int64_t elements) {
  return data == nullptr ? nullptr : data + elements;
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
