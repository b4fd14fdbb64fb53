// A whole sequence in one cooperative launch (the idea of Diamos et al. 2016, "Persistent RNNs"): the recurrent weights
// stay in registers, and the blocks meet once a step.
//
// A block owns eight units, and of the rows every n-th tile of sixteen. Each of its four warps multiplies a quarter of
// the depth: so a block's weights fill four warps' registers, a thread holding H/8 of them (LSTM), and the chain of
// dependent products, which is what a step waits for, is a quarter as long. What the quarters sum up to goes through
// shared memory to a thread for each row and unit, which finishes the step; numbers of other blocks come through L2.
#pragma once

#include <algorithm>

#include "cuda/device/launch.h"
#include "cuda/recurrent/passes.h"

namespace wordkiln::cuda {

constexpr int kBlockUnits = 8, kTileRows = 16, kBlockWarps = 4, kBlockThreads = 32 * kBlockWarps;
static_assert(kBlockUnits * kTileRows == kBlockThreads);

// What each warp found for a tile, as the threads that finish it read it.
template <typename Pass>
using WarpProducts = float[kBlockWarps][Pass::kOutputs][kBlockThreads];

// Writes a warp's accumulator: lane / 4 is its row, the next eight rows in words 2 and 3.
WORDKILN_DEVICE void store_products(float (&to)[kBlockThreads], const float (&sums)[4]) {
  const int at = device::lane() / 4 * kBlockUnits + device::lane() % 4 * 2;
  WORDKILN_UNROLL
  for (int e = 0; e < 4; ++e) to[at + e / 2 * 8 * kBlockUnits + e % 2] = sums[e];
}

template <typename Pass>
WORDKILN_DEVICE void add_products(const WarpProducts<Pass>& parts, float (&products)[Pass::kOutputs]) {
  WORDKILN_UNROLL
  for (int o = 0; o < Pass::kOutputs; ++o) {
    products[o] = parts[0][o][device::thread_index()];
    WORDKILN_UNROLL
    for (int warp = 1; warp < kBlockWarps; ++warp) products[o] += parts[warp][o][device::thread_index()];
  }
}

// kDepth: products of 16 that each warp does for an input.
template <typename Pass, int kDepth>
struct PersistentShared {
  // A quarter of the depth of a tile's rows for each warp. Eight elements more a row than are used: so eight rows at
  // the same column lie in different banks.
  static constexpr int kRowElements = kDepth * 16 + 8;
  alignas(16) typename Pass::Element numbers[2][kBlockWarps][kTileRows][kRowElements];
  WarpProducts<Pass> products;

  // The state of this thread's unit, in the memory behind: [tiles][kStates][threads].
  WORDKILN_DEVICE float& state(int tile, int which) {
    return reinterpret_cast<float*>(this + 1)[(tile * Pass::kStates + which) * kBlockThreads + device::thread_index()];
  }

  static size_t bytes(int tiles) {
    return sizeof(PersistentShared) + sizeof(float) * tiles * Pass::kStates * kBlockThreads;
  }
};

template <typename Pass, int kDepth>
class PersistentBlock {
  using T = typename Pass::Element;
  static constexpr int kInputs = Pass::kInputs, kOutputs = Pass::kOutputs;
  static constexpr int kRowElements = PersistentShared<Pass, kDepth>::kRowElements;
  // Sums that do not wait for each other: with one output only, four of it.
  static constexpr int kSums = kOutputs == 1 ? 4 : kOutputs;

 public:
  WORDKILN_DEVICE PersistentBlock(const Pass& pass, const Exchange<Pass>& exchange,
                                  PersistentShared<Pass, kDepth>& shared)
      : pass_(pass),
        exchange_(exchange),
        s_(shared),
        unit_blocks_((pass.shape.hidden + kBlockUnits - 1) / kBlockUnits),
        first_unit_(device::block_index() % unit_blocks_ * kBlockUnits),
        first_tile_(device::block_index() / unit_blocks_),
        tile_step_(device::block_count() / unit_blocks_),
        tiles_((pass.shape.batch + kTileRows - 1) / kTileRows),
        depth_from_(device::warp_index() * kDepth * 16),
        unit_(first_unit_ + device::thread_index() % kBlockUnits) {}

  WORDKILN_DEVICE void run() {
    load_weights();
    for (int tile = first_tile_; tile < tiles_; tile += tile_step_) load_state(tile);
    if (owns(first_tile_)) next_ = pass_.load(0, row_of(first_tile_), unit_);
    for (int step = 0; step < pass_.steps(); ++step) {
      advance(step);
      if (step + 1 < pass_.steps()) device::sync_grid(exchange_.counter, step + 1);
    }
    for (int tile = first_tile_; tile < tiles_; tile += tile_step_) store_state(tile);
  }

 private:
  WORDKILN_DEVICE int row_of(int tile) const { return tile * kTileRows + device::thread_index() / kBlockUnits; }
  WORDKILN_DEVICE bool owns(int tile) const { return row_of(tile) < pass_.shape.batch && unit_ < pass_.shape.hidden; }
  WORDKILN_DEVICE int slot_of(int tile) const { return (tile - first_tile_) / tile_step_; }

  WORDKILN_DEVICE void load_weights() {
    const int lane = device::lane(), unit = first_unit_ + lane / 4;
    WORDKILN_UNROLL
    for (int o = 0; o < kOutputs; ++o) {
      WORDKILN_UNROLL
      for (int i = 0; i < kInputs; ++i) {
        WORDKILN_UNROLL
        for (int half = 0; half < 2 * kDepth; ++half) {
          const int k = depth_from_ + half * 8 + lane % 4 * 2;
          const bool valid = unit < pass_.shape.hidden && k < pass_.shape.pitch;
          weights_[o][i][half / 2][half % 2] =
              valid ? *reinterpret_cast<const uint32_t*>(pass_.weight(o, unit) + i * pass_.shape.pitch + k) : 0;
        }
      }
    }
  }

  WORDKILN_DEVICE void load_state(int tile) {
    WORDKILN_UNROLL
    for (int which = 0; which < Pass::kStates; ++which) {
      s_.state(slot_of(tile), which) = owns(tile) ? pass_.states[which][pass_.shape.state(row_of(tile), unit_)] : 0.0f;
    }
  }

  WORDKILN_DEVICE void store_state(int tile) {
    if (!owns(tile)) return;
    WORDKILN_UNROLL
    for (int which = 0; which < Pass::kStates; ++which) {
      pass_.states[which][pass_.shape.state(row_of(tile), unit_)] = s_.state(slot_of(tile), which);
    }
  }

  // One step of all tiles. While a part of a tile is multiplied the next one is on its way.
  WORDKILN_DEVICE void advance(int step) {
    int buffer = 0;
    copy(step, first_tile_, 0, buffer);
    for (int tile = first_tile_; tile < tiles_; tile += tile_step_) {
      float sums[kSums][4] = {};
      WORDKILN_UNROLL
      for (int i = 0; i < kInputs; ++i) {
        copy(step, i + 1 < kInputs ? tile : tile + tile_step_, (i + 1) % kInputs, 1 - buffer);
        device::cp_async_wait<1>();
        device::sync_warp();  // the other lanes' copies are there
        multiply(i, buffer, sums);
        device::sync_warp();  // no lane reads what the next copies overwrite
        buffer = 1 - buffer;
      }
      finish(step, tile, sums);
    }
  }

  // Neighbouring lanes copy neighbouring chunks, 256 bytes of a row together. (With two lanes a row, sixteen lines an
  // instruction, a step of 1024 units and 64 rows took 15.2 us on an H100, not 8.7.)
  WORDKILN_DEVICE void copy(int step, int tile, int input, int buffer) {
    constexpr int kLanes = kDepth < 8 ? kDepth * 2 : 16, kColumns = kLanes * 8, kRows = 32 / kLanes;  // at once
    static_assert(kDepth * 16 % kColumns == 0);
    if (tile < tiles_) {
      const int lane = device::recomputed(device::lane()), own = lane / kLanes, column = lane % kLanes * 8;
      const int rows = pass_.shape.batch - tile * kTileRows - own, columns = pass_.shape.pitch - depth_from_ - column;
      const T* from =
          exchange_.row(pass_.shape, step, tile * kTileRows + own) + input * pass_.shape.pitch + depth_from_ + column;
      T* to = &s_.numbers[buffer][device::warp_index()][own][column];
      WORDKILN_UNROLL
      for (int row = 0; row < kTileRows; row += kRows, from += int64_t{kRows} * kInputs * pass_.shape.pitch) {
        WORDKILN_UNROLL
        for (int k = 0; k < kDepth * 16; k += kColumns) {
          const bool valid = row < rows && k < columns;
          device::cp_async16(to + row * kRowElements + k, valid ? from + k : exchange_.numbers, valid);
        }
      }
    }
    device::cp_async_commit();
  }

  WORDKILN_DEVICE void multiply(int input, int buffer, float (&sums)[kSums][4]) {
    const int lane = device::lane();
    const T* from = &s_.numbers[buffer][device::warp_index()][lane % 16][lane / 16 * 8];
    WORDKILN_UNROLL
    for (int k = 0; k < kDepth; ++k) {
      uint32_t a[4];
      device::ldmatrix_x4(a, from + k * 16);
      WORDKILN_UNROLL
      for (int o = 0; o < kOutputs; ++o) {
        const uint32_t (&b)[2] = weights_[o][input][k];
        device::mma_m16n8k16<T>(sums[kOutputs == 1 ? k % 4 : o], a, b[0], b[1]);
      }
    }
  }

  WORDKILN_DEVICE void finish(int step, int tile, float (&sums)[kSums][4]) {
    if constexpr (kOutputs == 1) {
      WORDKILN_UNROLL
      for (int e = 0; e < 4; ++e) sums[0][e] = sums[0][e] + sums[1][e] + (sums[2][e] + sums[3][e]);
    }
    WORDKILN_UNROLL
    for (int o = 0; o < kOutputs; ++o) store_products(s_.products[device::warp_index()][o], sums[o]);
    // Asked for a tile ahead, over the grid's barrier: device memory answers in the time of half a step.
    const typename Pass::Inputs inputs = next_;
    load_next(step, tile);
    device::sync_block();
    if (owns(tile)) {
      float products[kOutputs], state[2];
      add_products<Pass>(s_.products, products);
      WORDKILN_UNROLL
      for (int which = 0; which < Pass::kStates; ++which) state[which] = s_.state(slot_of(tile), which);
      pass_.finish(step, row_of(tile), unit_, inputs, products, state,
                   exchange_.row(pass_.shape, step + 1, row_of(tile)));
      WORDKILN_UNROLL
      for (int which = 0; which < Pass::kStates; ++which) s_.state(slot_of(tile), which) = state[which];
    }
    device::sync_block();  // the products were read
  }

  WORDKILN_DEVICE void load_next(int step, int tile) {
    const bool last = tile + tile_step_ >= tiles_;
    const int next_step = last ? step + 1 : step, next_tile = last ? first_tile_ : tile + tile_step_;
    if (next_step < pass_.steps() && owns(next_tile)) next_ = pass_.load(next_step, row_of(next_tile), unit_);
  }

  const Pass& pass_;
  const Exchange<Pass>& exchange_;
  PersistentShared<Pass, kDepth>& s_;
  const int unit_blocks_, first_unit_, first_tile_, tile_step_, tiles_;
  const int depth_from_;  // the first column of this warp's quarter
  const int unit_;        // that this thread finishes
  uint32_t weights_[kOutputs][kInputs][kDepth][2];
  typename Pass::Inputs next_ = {};
};

template <typename Pass, int kDepth>
WORDKILN_KERNEL(kBlockThreads)
recurrent_persistent_kernel(const Pass pass, const Exchange<Pass> exchange) {
  PersistentBlock<Pass, kDepth>(pass, exchange, device::shared<PersistentShared<Pass, kDepth>>()).run();
}

// False where the weights, or the state of the rows, do not fit the device.
template <typename Pass, int kDepth>
bool launch_persistent(const Pass& pass, const Exchange<Pass>& exchange, Stream stream) {
  constexpr int kMostTiles = 32;  // of a block: 32 KB of state
  using Shared = PersistentShared<Pass, kDepth>;
  const auto kernel = &recurrent_persistent_kernel<Pass, kDepth>;
  const int unit_blocks = (pass.shape.hidden + kBlockUnits - 1) / kBlockUnits;
  const int tiles = (pass.shape.batch + kTileRows - 1) / kTileRows;
  for (int each = 1; each <= kMostTiles; each *= 2) {
    const int64_t blocks = static_cast<int64_t>((tiles + each - 1) / each) * unit_blocks;
    if (blocks > device::resident_blocks(kernel, kBlockThreads, Shared::bytes(each))) continue;
    device::launch(kernel, static_cast<int>(blocks), kBlockThreads, Shared::bytes(each), stream,
                   device::Launch::kCooperative, pass, exchange);
    return true;
  }
  return false;
}

// By the depth of a warp's quarter. Beyond 24 (1536 units) a thread's registers do not hold the weights.
template <typename Pass>
bool launch_persistent(const Pass& pass, const Exchange<Pass>& exchange, Stream stream) {
  const int depth = (pass.shape.pitch + 63) / 64;
  if (depth <= 4) return launch_persistent<Pass, 4>(pass, exchange, stream);
  if (depth <= 8) return launch_persistent<Pass, 8>(pass, exchange, stream);
  if (depth <= 16) return launch_persistent<Pass, 16>(pass, exchange, stream);
  if (depth <= 24) return launch_persistent<Pass, 24>(pass, exchange, stream);
  return false;
}

}  // namespace wordkiln::cuda
