// What both ways of a step with layer norms or zoneout share. A block takes a row of the batch, a thread every
// kCellThreads-th unit with all of its gates, in every pass over the row: so a thread reads back what it has written
// itself, and only the sums of the norms go through shared memory.
#pragma once

#include "common/philox.h"
#include "cuda/device/device.h"
#include "cuda/device/launch.h"
#include "cuda/device/reduce.h"
#include "cuda/recurrent/cells.h"
#include "wordkiln/cuda/recurrent_cell.h"

namespace wordkiln::cuda {

constexpr int kCellWarps = 8, kCellThreads = 32 * kCellWarps;

// Each sum over the block has a place of its own, so that none waits for the one before it to have been read.
struct CellShared {
  static constexpr int kSums = 4;
  float warps[kSums][kCellWarps];
};

// The same bits in every thread.
WORDKILN_DEVICE float block_sum(CellShared& s, int which, float x) {
  const float sum = device::warp_sum(x);
  if (device::lane() == 0) s.warps[which][device::warp_index()] = sum;
  device::sync_block();
  float total = 0.0f;
  WORDKILN_UNROLL
  for (int warp = 0; warp < kCellWarps; ++warp) total += s.warps[which][warp];
  return total;
}

// `from` elements behind the address.
template <typename T>
WORDKILN_DEVICE T* behind(void* address, int64_t from) {
  return address == nullptr ? nullptr : static_cast<T*>(address) + from;
}

template <typename T>
WORDKILN_DEVICE const T* behind(const void* address, int64_t from) {
  return address == nullptr ? nullptr : static_cast<const T*>(address) + from;
}

// body(unit) for each unit of this thread.
template <typename Body>
WORDKILN_DEVICE void for_units(int hidden, Body body) {
  for (int unit = device::thread_index(); unit < hidden; unit += kCellThreads) body(unit);
}

// Zoneout as the kernels take it; of h and of c.
struct ZoneoutParams {
  float shares[2];    // that are kept of every unit; 0 where units are drawn
  uint32_t below[2];  // a word below it keeps its unit; 0: nothing is drawn
  uint64_t seed;
  uint32_t offset;
};

inline ZoneoutParams zoneout_params(const Zoneout& z) {
  ZoneoutParams p = {.shares = {}, .below = {}, .seed = z.seed, .offset = z.offset};
  const double probabilities[2] = {z.h, z.c};
  for (int which = 0; which < 2; ++which) {
    if (z.draws) {
      p.below[which] = static_cast<uint32_t>(probabilities[which] * 4294967296.0);
    } else {
      p.shares[which] = static_cast<float>(probabilities[which]);
    }
  }
  return p;
}

// The share of its value before the step that a unit of a row keeps. which: 0 for h, 1 for c.
WORDKILN_DEVICE float kept_share(const ZoneoutParams& z, int64_t step, int row, int which, int unit) {
  if (z.below[which] == 0) return z.shares[which];
  uint32_t counter[4] = {static_cast<uint32_t>(unit / 64 * 16 + unit % 16), static_cast<uint32_t>(step),
                         static_cast<uint32_t>(2 * row + which), z.offset};
  philox4x32(counter, z.seed, [](uint32_t x, uint32_t y, uint32_t& high) { return device::multiply_wide(x, y, high); });
  const int word = unit / 16 % 4;
  const uint32_t drawn = word == 0 ? counter[0] : word == 1 ? counter[1] : word == 2 ? counter[2] : counter[3];
  return drawn < z.below[which] ? 1.0f : 0.0f;
}

WORDKILN_DEVICE float mix(float share, float before, float after) { return share * before + (1.0f - share) * after; }

template <typename T>
WORDKILN_DEVICE void clear_row(T* x, int width) {
  for (int i = device::thread_index(); i < width; i += kCellThreads) x[i] = device::from_float<T>(0.0f);
}

}  // namespace wordkiln::cuda
