// Where threads meet: a warp's instructions, whose lanes hand each other numbers, and barriers.
#include <cstring>

#include "simt/machine.h"

namespace wordkiln::simt {
namespace {

// The last of the 32 lanes to come computes what all of them take away.
template <typename Compute>
void meet(Meeting meeting, Site site, const Compute& compute) {
  Thread& me = *machine.self;
  wait_at(State::kAtWarp, site);
  me.meeting = meeting;
  Thread* const* warp = &me.block->threads[me.index / kLanes * kLanes];
  const auto same = [=](const Thread* t) { return t->meeting == meeting; };
  if (!all_at(warp, kLanes, State::kAtWarp, site.line) || !std::all_of(warp, warp + kLanes, same)) {
    me.fiber.leave();
    return;
  }
  compute(warp);
  for (int i = 0; i < kLanes; ++i) warp[i]->state = State::kReady;
}

// Eight rows of 16 bytes are one access: conflict-free if they lie in different sixteenths of 128 bytes.
void count_conflicts(Thread* const* rows) {
  unsigned taken = 0;
  for (int i = 0; i < 8; ++i) {
    const unsigned bank = 1u << (rows[i]->lane.in.ldmatrix.address / 16 % 8);
    if (taken & bank) ++machine.counters.bank_conflicts;
    taken |= bank;
  }
}

void spread_matrices(Thread* const* warp, bool transposed) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const int row = lane / 4, column = lane % 4 * 2;
    for (int matrix = 0; matrix < 4; ++matrix) {
      Thread* const* rows = warp + matrix * 8;
      const auto at = [=](int r, int c) -> uint32_t {
        return transposed ? rows[c]->lane.in.ldmatrix.row[r] : rows[r]->lane.in.ldmatrix.row[c];
      };
      warp[lane]->lane.out.words[matrix] = at(row, column) | at(row, column + 1) << 16;
    }
  }
}

// The layouts of PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
void multiply_fragments(Thread* const* warp, float (*widen)(uint16_t)) {
  float a[16][16], b[8][16];
  const auto low = [=](uint32_t pair) { return widen(static_cast<uint16_t>(pair)); };
  const auto high = [=](uint32_t pair) { return widen(static_cast<uint16_t>(pair >> 16)); };
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& in = warp[lane]->lane.in.mma;
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      a[group + i % 2 * 8][pair + i / 2 * 8] = low(in.a[i]);
      a[group + i % 2 * 8][pair + i / 2 * 8 + 1] = high(in.a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[group][pair + i * 8] = low(in.b[i]);
      b[group][pair + i * 8 + 1] = high(in.b[i]);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    Lane& own = warp[lane]->lane;
    for (int i = 0; i < 4; ++i) {
      const float* row = a[lane / 4 + i / 2 * 8];
      const float* column = b[lane % 4 * 2 + i % 2];
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += row[k] * column[k];
      own.out.d[i] = own.in.mma.d[i] + sum;
    }
  }
}

}  // namespace

void ldmatrix_x4(uint32_t (&matrices)[4], const void* row, bool transposed, Site site) {
  if (!aligned(row)) fail("ldmatrix: a row's address is no multiple of 16", site);
  if (!in_shared(row, 16)) fail("ldmatrix: a row is outside shared memory", site);
  if (heard_by != nullptr) heard_by->read(row, 16, site);
  Thread& me = *machine.self;
  std::memcpy(me.lane.in.ldmatrix.row, row, 16);
  me.lane.in.ldmatrix.address = reinterpret_cast<uintptr_t>(row);
  meet(transposed ? Meeting::kLdmatrixTransposed : Meeting::kLdmatrix, site, [transposed](Thread* const* warp) {
    ++machine.counters.ldmatrix;
    for (int matrix = 0; matrix < 4; ++matrix) count_conflicts(warp + matrix * 8);
    spread_matrices(warp, transposed);
  });
  std::memcpy(matrices, me.lane.out.words, sizeof matrices);
}

void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*widen)(uint16_t),
                  Site site) {
  Thread& me = *machine.self;
  std::memcpy(me.lane.in.mma.d, d, sizeof d);
  std::memcpy(me.lane.in.mma.a, a, sizeof a);
  me.lane.in.mma.b[0] = b0;
  me.lane.in.mma.b[1] = b1;
  meet(Meeting::kMma, site, [widen](Thread* const* warp) {
    ++machine.counters.mma;
    multiply_fragments(warp, widen);
  });
  std::memcpy(d, me.lane.out.d, sizeof d);
}

uint32_t shuffle(uint32_t value, int source_lane, Site site) {
  Thread& me = *machine.self;
  me.lane.in.shuffle.value = value;
  me.lane.in.shuffle.source = source_lane;
  meet(Meeting::kShuffle, site, [](Thread* const* warp) {
    ++machine.counters.shuffles;
    for (int i = 0; i < kLanes; ++i) {
      warp[i]->lane.out.words[0] = warp[warp[i]->lane.in.shuffle.source & (kLanes - 1)]->lane.in.shuffle.value;
    }
  });
  return me.lane.out.words[0];
}

void sync_warp(Site site) {
  meet(Meeting::kSync, site, [](Thread* const* warp) {
    if (heard_by != nullptr) heard_by->join(warp[0]->index, kLanes);
  });
}

void sync_block(Site site) {
  Thread& me = *machine.self;
  wait_at(State::kAtBlock, site);
  const std::vector<Thread*>& threads = me.block->threads;
  if (!all_at(threads.data(), machine.threads, State::kAtBlock, site.line)) return me.fiber.leave();
  ++machine.counters.block_barriers;
  if (heard_by != nullptr) heard_by->join(0, machine.threads);
  for (Thread* t : threads) t->state = State::kReady;
}

void sync_grid(unsigned* counter, unsigned phase, Site site) {
  if (!machine.cooperative) fail("sync_grid: the launch is not cooperative", site);
  const unsigned before = (phase - 1) * static_cast<unsigned>(machine.blocks);
  if (*counter != before) fail("sync_grid: the counter does not fit the phase: it starts at 0, phases at 1", site);
  Thread& me = *machine.self;
  wait_at(State::kAtGrid, site);
  for (const Block& block : machine.resident) {
    if (!all_at(block.threads.data(), machine.threads, State::kAtGrid, site.line)) return me.fiber.leave();
  }
  ++machine.counters.grid_barriers;
  if (heard_by != nullptr) heard_by->join_grid();
  *counter = before + static_cast<unsigned>(machine.blocks);
  for (const Block& block : machine.resident) {
    for (Thread* t : block.threads) t->state = State::kReady;
  }
}

}  // namespace wordkiln::simt
