// What the two LSTM passes share: how the work is cut.
#pragma once

#include "cpu/kernels/parallel.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// The part of one thread: rows of the batch, and blocks of hidden units.
struct LstmPart {
  Range rows, blocks;
  bool shares_rows;  // other threads compute other units of the same rows: they must meet after each step
};

// With 8 rows for each thread the batch is cut, which needs no barrier; else the hidden units are.
inline LstmPart lstm_part(int64_t batch, int64_t blocks, int thread, int threads) {
  if (batch >= 8 * threads || threads == 1) return {split(batch, thread, threads), {0, blocks}, false};
  return {{0, batch}, split(blocks, thread, threads), true};
}

inline int lstm_threads(int64_t batch, int64_t hidden) {
  return threads_for(4.0 * static_cast<double>(batch) * static_cast<double>(hidden) * static_cast<double>(hidden));
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
