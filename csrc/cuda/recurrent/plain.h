// One step a launch in float32, without tensor cores: a warp takes a unit of eight rows, its lanes split the depth.
#pragma once

#include "cuda/device/reduce.h"
#include "cuda/recurrent/step.h"

namespace wordkiln::cuda {

constexpr int kPlainRows = 8;

template <typename Pass>
WORDKILN_KERNEL(kBlockThreads)
recurrent_plain_kernel(const Pass pass, const Exchange<Pass> exchange, int step) {
  const int unit_blocks = (pass.shape.hidden + kBlockWarps - 1) / kBlockWarps, lane = device::lane();
  const int unit = device::block_index() % unit_blocks * kBlockWarps + device::warp_index();
  const int first_row = device::block_index() / unit_blocks * kPlainRows, last_row = pass.shape.batch - 1;
  if (unit >= pass.shape.hidden) return;
  float sums[kPlainRows][Pass::kOutputs] = {};
  for (int k = lane; k < Pass::kInputs * pass.shape.pitch; k += 32) {
    float weights[Pass::kOutputs];
    WORDKILN_UNROLL
    for (int o = 0; o < Pass::kOutputs; ++o) weights[o] = pass.weight(o, unit)[k];
    WORDKILN_UNROLL
    for (int r = 0; r < kPlainRows; ++r) {
      const int row = first_row + r < last_row ? first_row + r : last_row;
      const float number = exchange.row(pass.shape, step, row)[k];
      WORDKILN_UNROLL
      for (int o = 0; o < Pass::kOutputs; ++o) sums[r][o] += weights[o] * number;
    }
  }
  float products[Pass::kOutputs] = {};
  WORDKILN_UNROLL
  for (int r = 0; r < kPlainRows; ++r) {
    WORDKILN_UNROLL
    for (int o = 0; o < Pass::kOutputs; ++o) {
      const float sum = device::warp_sum(sums[r][o]);
      if (lane == r) products[o] = sum;
    }
  }
  if (lane >= kPlainRows || first_row + lane > last_row) return;
  finish_step(pass, exchange, step, first_row + lane, unit, pass.load(step, first_row + lane, unit), products);
}

template <typename Pass>
void launch_plain(const Pass& pass, const Exchange<Pass>& exchange, Stream stream) {
  const int unit_blocks = (pass.shape.hidden + kBlockWarps - 1) / kBlockWarps;
  const int row_blocks = (pass.shape.batch + kPlainRows - 1) / kPlainRows;
  for (int step = 0; step < pass.steps(); ++step) {
    device::launch(&recurrent_plain_kernel<Pass>, unit_blocks * row_blocks, kBlockThreads, 0, stream,
                   device::Launch::kIndependent, pass, exchange, step);
  }
}

}  // namespace wordkiln::cuda
