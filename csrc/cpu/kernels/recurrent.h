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
  bool is_far;       // its weights do not stay in the second cache
};

// Bytes of weights that stay in a thread's second cache, and those that the caches deliver to every thread as fast as
// it uses them.
constexpr int64_t kSecondCache = int64_t{3} << 19, kNearWeights = int64_t{8} << 20;

// With 8 rows for each thread and weights that are near the batch is cut, which needs no barrier; else the hidden units
// are: each thread reads only its own part of the weights.
inline RecurrentPart recurrent_part(int64_t batch, int64_t blocks, int64_t weight_bytes, int thread, int threads) {
  if (threads == 1 || (batch >= 8 * threads && weight_bytes <= kNearWeights)) {
    return {split(batch, thread, threads), {0, blocks}, false, weight_bytes > kSecondCache};
  }
  return {{0, batch}, split(blocks, thread, threads), true, weight_bytes > threads * kSecondCache};
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
