// Sums and largest numbers over lanes, from the vocabulary's shuffles. The order is fixed: the same bits every time, in
// every lane.
#pragma once

#include "cuda/device/device.h"

namespace wordkiln::device {

WORDKILN_DEVICE float warp_sum(float x) {
  WORDKILN_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x += shfl_xor(x, mask);
  return x;
}

WORDKILN_DEVICE float warp_max(float x) {
  WORDKILN_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, shfl_xor(x, mask));
  return x;
}

// Over eight neighbouring lanes.
WORDKILN_DEVICE float eight_lanes_sum(float x) {
  WORDKILN_UNROLL
  for (int mask = 4; mask > 0; mask /= 2) x += shfl_xor(x, mask);
  return x;
}

}  // namespace wordkiln::device
