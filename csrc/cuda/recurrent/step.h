// One step a launch, for what the persistent kernel has no room for: weights come from L2 every time. Blocks, warps and
// threads share the work as there; fragments come straight from global memory.
#pragma once

#include "cuda/recurrent/persistent.h"

namespace wordkiln::cuda {

template <typename Pass, int kTiles>
struct StepShared {
  WarpProducts<Pass> products[kTiles];
};

// A warp's sums over every fourth 32 columns. A lane takes 16 bytes of each row it has a part in, and splits them in
// the two halves of 16 columns that the tensor cores take: which column stands where does not matter, as long as
// numbers and weights agree.
template <typename Pass, int kTiles>
WORDKILN_DEVICE void multiply_step(const Pass& pass, const Exchange<Pass>& exchange, int step, int first_row,
                                   int first_unit, float (&sums)[kTiles][Pass::kOutputs][4]) {
  using T = typename Pass::Element;
  const int lane = device::lane(), depth = Pass::kInputs * pass.shape.pitch;
  const int last_row = pass.shape.batch - 1, last_unit = pass.shape.hidden - 1;
  // Rows and units that there are not: their products are not looked at.
  const int unit = first_unit + lane / 4 < last_unit ? first_unit + lane / 4 : last_unit;
  for (int column = device::warp_index() * 32 + lane % 4 * 8; column - lane % 4 * 8 < depth; column += kBlockThreads) {
    const bool valid = column < depth;
    device::Chunk weights[Pass::kOutputs] = {};
    WORDKILN_UNROLL
    for (int o = 0; o < Pass::kOutputs; ++o) {
      if (valid) weights[o] = *reinterpret_cast<const device::Chunk*>(pass.weight(o, unit) + column);
    }
    WORDKILN_UNROLL
    for (int i = 0; i < kTiles; ++i) {
      if (first_row + i * kTileRows > last_row) continue;
      device::Chunk rows[2] = {};
      WORDKILN_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + i * kTileRows + half * 8 + lane / 4;
        const T* from = exchange.row(pass.shape, step, row < last_row ? row : last_row);
        if (valid) rows[half] = *reinterpret_cast<const device::Chunk*>(from + column);
      }
      WORDKILN_UNROLL
      for (int k = 0; k < 4; k += 2) {
        const uint32_t a[4] = {rows[0].words[k], rows[1].words[k], rows[0].words[k + 1], rows[1].words[k + 1]};
        WORDKILN_UNROLL
        for (int o = 0; o < Pass::kOutputs; ++o) {
          device::mma_m16n8k16<T>(sums[i][o], a, weights[o].words[k], weights[o].words[k + 1]);
        }
      }
    }
  }
}

// Finishes a unit whose state lies in global memory.
template <typename Pass>
WORDKILN_DEVICE void finish_step(const Pass& pass, const Exchange<Pass>& exchange, int step, int row, int unit,
                                 const typename Pass::Inputs& inputs, const float (&products)[Pass::kOutputs]) {
  const int64_t at = pass.shape.state(row, unit);
  float state[2];
  WORDKILN_UNROLL
  for (int which = 0; which < Pass::kStates; ++which) state[which] = pass.states[which][at];
  pass.finish(step, row, unit, inputs, products, state, exchange.row(pass.shape, step + 1, row));
  WORDKILN_UNROLL
  for (int which = 0; which < Pass::kStates; ++which) pass.states[which][at] = state[which];
}

template <typename Pass, int kTiles>
WORDKILN_KERNEL(kBlockThreads)
recurrent_step_kernel(const Pass pass, const Exchange<Pass> exchange, int step) {
  auto& s = device::shared<StepShared<Pass, kTiles>>();
  const int unit_blocks = (pass.shape.hidden + kBlockUnits - 1) / kBlockUnits;
  const int first_unit = device::block_index() % unit_blocks * kBlockUnits;
  const int first_row = device::block_index() / unit_blocks * kTiles * kTileRows;
  const int own_row = first_row + device::thread_index() / kBlockUnits;
  const int unit = first_unit + device::thread_index() % kBlockUnits;
  typename Pass::Inputs inputs[kTiles];
  WORDKILN_UNROLL
  for (int i = 0; i < kTiles; ++i) {
    const int row = own_row + i * kTileRows;
    if (row < pass.shape.batch && unit < pass.shape.hidden) inputs[i] = pass.load(step, row, unit);
  }
  float sums[kTiles][Pass::kOutputs][4] = {};
  multiply_step(pass, exchange, step, first_row, first_unit, sums);
  WORDKILN_UNROLL
  for (int i = 0; i < kTiles; ++i) {
    WORDKILN_UNROLL
    for (int o = 0; o < Pass::kOutputs; ++o) store_products(s.products[i][device::warp_index()][o], sums[i][o]);
  }
  device::sync_block();
  WORDKILN_UNROLL
  for (int i = 0; i < kTiles; ++i) {
    const int row = own_row + i * kTileRows;
    if (row >= pass.shape.batch || unit >= pass.shape.hidden) continue;
    float products[Pass::kOutputs];
    add_products<Pass>(s.products[i], products);
    finish_step(pass, exchange, step, row, unit, inputs[i], products);
  }
}

template <typename Pass, int kTiles>
void launch_steps(const Pass& pass, const Exchange<Pass>& exchange, Stream stream) {
  const int unit_blocks = (pass.shape.hidden + kBlockUnits - 1) / kBlockUnits;
  const int row_blocks = (pass.shape.batch + kTiles * kTileRows - 1) / (kTiles * kTileRows);
  for (int step = 0; step < pass.steps(); ++step) {
    device::launch(&recurrent_step_kernel<Pass, kTiles>, unit_blocks * row_blocks, kBlockThreads,
                   sizeof(StepShared<Pass, kTiles>), stream, device::Launch::kIndependent, pass, exchange, step);
  }
}

template <typename Pass>
void launch_steps(const Pass& pass, const Exchange<Pass>& exchange, Stream stream) {
  if (pass.shape.batch <= kTileRows) return launch_steps<Pass, 1>(pass, exchange, stream);
  launch_steps<Pass, 4>(pass, exchange, stream);
}

}  // namespace wordkiln::cuda
