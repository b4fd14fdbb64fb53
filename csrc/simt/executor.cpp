#include "simt/executor.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "simt/fiber.h"
#include "simt/observer.h"

namespace wordkiln::simt {
namespace {

constexpr int kLanes = 32;
constexpr std::size_t kLargestShared = 227 * 1024;  // that of sm_90, the largest of all
constexpr int kLargestBlock = 1024;

enum class State { kReady, kAtWarp, kAtBlock, kAtGrid, kDone };
enum class Meeting { kLdmatrix, kLdmatrixTransposed, kMma, kShuffle, kSync };

struct Copy {
  void* to;
  const void* from;  // null: zeros
  int group;
};

// What a lane brings to a meeting of its warp, and what it takes away.
struct Lane {
  union {
    struct {
      uint16_t row[8];
      uintptr_t address;
    } ldmatrix;
    struct {
      float d[4];
      uint32_t a[4], b[2];
    } mma;
    struct {
      uint32_t value;
      int source;
    } shuffle;
  } in;
  union {
    uint32_t words[4];
    float d[4];
  } out;
};

struct Block;

struct Thread {
  Fiber fiber;
  Block* block;
  int index;
  State state;
  Site site;
  Meeting meeting;
  Lane lane;
  std::vector<Copy> copies;  // that have not landed
  int groups;                // committed so far
};

struct Block {
  int index, slot;
  std::byte* shared;
  std::vector<Thread*> threads;
};

struct FreeDeleter {
  void operator()(std::byte* p) const { std::free(p); }
};

struct Machine {
  Schedule schedule;
  Counters counters = {};
  int blocks, threads;
  std::size_t shared_bytes;
  bool cooperative;
  const std::function<void()>* kernel;
  std::vector<Block> resident;
  std::vector<std::unique_ptr<Thread>> pool;
  Thread* self = nullptr;
  bool in_kernel = false;
  std::string failure;
  uint64_t random;
} machine;

constinit Observer* heard_by = nullptr;  // set while statics are initialised, maybe before `machine` is

// Xorshift (Marsaglia 2003).
uint64_t draw() {
  machine.random ^= machine.random << 13;
  machine.random ^= machine.random >> 7;
  machine.random ^= machine.random << 17;
  return machine.random;
}

template <typename T>
void shuffle_order(std::vector<T>& items) {
  for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[draw() % i]);
}

void wait_at(State state, Site site) {
  machine.self->state = state;
  machine.self->site = site;
}

// Whether all of these threads stand at the same place.
bool all_at(Thread* const* threads, int count, State state, int line) {
  return std::all_of(threads, threads + count,
                     [=](const Thread* t) { return t->state == state && t->site.line == line; });
}

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

bool in_shared(const void* p, std::size_t bytes) {
  const std::byte* begin = machine.self->block->shared;
  const std::byte* at = static_cast<const std::byte*>(p);
  return at >= begin && at + bytes <= begin + machine.shared_bytes;
}

bool aligned(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

void land(const Copy& copy) {
  if (copy.from != nullptr) {
    std::memcpy(copy.to, copy.from, 16);
  } else {
    std::memset(copy.to, 0, 16);
  }
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

std::string place_of(const Thread& t) {
  if (t.state == State::kDone) return "has returned";
  const char* what = t.state == State::kAtWarp    ? "in a warp's meeting at "
                     : t.state == State::kAtBlock ? "at the block's barrier at "
                                                  : "at the grid's barrier at ";
  return what + std::string(t.site.file) + ":" + std::to_string(t.site.line);
}

[[noreturn]] void tell_deadlock() {
  std::string text = "deadlock: threads wait for each other";
  for (const Block& block : machine.resident) {
    std::string last;
    for (const Thread* t : block.threads) {
      const std::string place = place_of(*t);
      if (place == last) continue;
      text += "\n  block " + std::to_string(block.index) + ", thread " + std::to_string(t->index) + ": " + place;
      last = place;
    }
  }
  throw Error(text);
}

void thread_main() {
  (*machine.kernel)();
  Thread& me = *machine.self;
  if (!me.copies.empty())
    fail("a thread returns with cp.async copies that it never waited for", {"the kernel's end", 0});
  me.state = State::kDone;
  me.fiber.leave(true);
}

bool step(Thread& t) {
  if (t.state != State::kReady) return false;
  machine.self = &t;
  machine.in_kernel = true;
  t.fiber.resume();
  machine.in_kernel = false;
  if (!machine.failure.empty()) throw Error(std::exchange(machine.failure, {}));
  return true;
}

// Until each thread of the warp waits for other warps.
bool run_warp(Thread* const* warp) {
  bool moved = false;
  for (bool again = true; again;) {
    again = false;
    for (int i = 0; i < kLanes; ++i) again = step(*warp[i]) || again;
    moved = moved || again;
  }
  return moved;
}

void run_resident() {
  const bool warps = machine.schedule.order == Order::kWarpAhead;
  std::vector<Thread* const*> order;
  for (const Block& block : machine.resident) {
    for (int i = 0; i < machine.threads; i += warps ? kLanes : 1) order.push_back(&block.threads[i]);
  }
  for (bool moved = true; moved;) {
    moved = false;
    if (machine.schedule.order != Order::kInTurn) shuffle_order(order);
    for (Thread* const* item : order) moved = (warps ? run_warp(item) : step(**item)) || moved;
  }
  for (const Block& block : machine.resident) {
    for (const Thread* t : block.threads) {
      if (t->state != State::kDone) tell_deadlock();
    }
  }
}

// Shared memory of exactly the size asked for, so that AddressSanitizer sees what goes beyond it.
std::unique_ptr<std::byte, FreeDeleter> new_shared() {
  const std::size_t bytes = (machine.shared_bytes + 127) / 128 * 128 + 128;
  std::unique_ptr<std::byte, FreeDeleter> memory(static_cast<std::byte*>(std::aligned_alloc(128, bytes)));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory.get(), 0xff, bytes);  // NaN in every floating-point type
  return memory;
}

void start_block(Block& block, int index, std::byte* shared, int slot) {
  block.index = index;
  block.slot = slot;
  block.shared = shared;
  if (heard_by != nullptr) heard_by->start_block(slot, shared, machine.shared_bytes);
  for (int i = 0; i < machine.threads; ++i) {
    Thread& t = *machine.pool[static_cast<std::size_t>(slot) * machine.threads + i];
    t.block = &block;
    t.index = i;
    t.state = State::kReady;
    t.site = Site::here();
    t.copies.clear();
    t.groups = 0;
    t.fiber.start(&thread_main);
    block.threads.push_back(&t);
  }
}

}  // namespace

Schedule& schedule() { return machine.schedule; }

Observer*& observer() { return heard_by; }

bool runs_kernel() { return machine.in_kernel; }

int block_slot() { return machine.self->block->slot; }

bool on_own_stack(const void* p) { return machine.self->fiber.owns(p); }

Counters& counters() { return machine.counters; }

std::function<void(const Request&)>& elsewhere() {
  static std::function<void(const Request&)> runner;
  return runner;
}

bool runs_elsewhere() { return elsewhere() != nullptr; }

void run_elsewhere(const void* kernel, int blocks, int threads, std::size_t shared_bytes, bool cooperative,
                   std::string parameters) {
  Dl_info symbol;
  if (dladdr(kernel, &symbol) == 0 || symbol.dli_saddr != kernel) throw Error("launch: the kernel's symbol is hidden");
  elsewhere()({symbol.dli_sname, blocks, threads, shared_bytes, cooperative, std::move(parameters)});
}

int thread_index() { return machine.self->index; }

int block_index() { return machine.self->block->index; }

int block_count() { return machine.blocks; }

void* shared_memory(std::size_t bytes) {
  if (bytes > machine.shared_bytes) fail("the launch gave less shared memory than the kernel uses", {"shared()", 0});
  return machine.self->block->shared;
}

void cp_async16(void* shared, const void* global, bool valid, Site site) {
  if (!aligned(shared) || !aligned(global)) fail("cp_async16: an address is no multiple of 16", site);
  if (!in_shared(shared, 16)) fail("cp_async16: the destination is outside shared memory", site);
  ++machine.counters.async_copies;
  const Copy copy = {shared, valid ? global : nullptr, machine.self->groups};
  if (heard_by != nullptr) heard_by->copy_starts(shared, copy.from, site);
  const Copies when = machine.schedule.copies;
  if (when == Copies::kEarly || (when == Copies::kRandom && draw() % 2 == 0)) land(copy);
  machine.self->copies.push_back(copy);
}

void cp_async_commit() { ++machine.self->groups; }

void cp_async_wait(int pending) {
  std::vector<Copy>& copies = machine.self->copies;
  const int last = machine.self->groups - pending;
  const auto landed = [last](const Copy& copy) { return copy.group < last; };
  for (const Copy& copy : copies) {
    if (!landed(copy)) continue;
    land(copy);
    if (heard_by != nullptr) heard_by->copy_lands(copy.to);
  }
  copies.erase(std::remove_if(copies.begin(), copies.end(), landed), copies.end());
}

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

void fail(const char* why, Site site) {
  const Thread& me = *machine.self;
  machine.failure = std::string(why) + " (block " + std::to_string(me.block->index) + ", thread " +
                    std::to_string(me.index) + ", " + site.file + ":" + std::to_string(site.line) + ")";
  machine.self->fiber.leave();
  std::abort();
}

void run(int blocks, int threads, std::size_t shared_bytes, bool cooperative, const std::function<void()>& kernel) {
  if (blocks < 1 || threads < kLanes || threads > kLargestBlock || threads % kLanes != 0) {
    throw Error("launch: " + std::to_string(blocks) + " blocks of " + std::to_string(threads) + " threads");
  }
  if (shared_bytes > kLargestShared) throw Error("launch: more shared memory than any GPU has");
  if (cooperative && blocks > machine.schedule.resident_blocks) throw Error("launch: too many cooperative blocks");
  ++machine.counters.launches;
  machine.blocks = blocks;
  machine.threads = threads;
  machine.shared_bytes = shared_bytes;
  machine.cooperative = cooperative;
  machine.kernel = &kernel;
  machine.random = machine.schedule.seed * 0x9E3779B97F4A7C15u + 1;
  std::vector<int> order(static_cast<std::size_t>(blocks));
  for (int i = 0; i < blocks; ++i) order[static_cast<std::size_t>(i)] = i;
  if (machine.schedule.order != Order::kInTurn) shuffle_order(order);
  const int together = cooperative ? blocks : 1;
  while (machine.pool.size() < static_cast<std::size_t>(together) * threads) {
    machine.pool.push_back(std::make_unique<Thread>());
  }
  if (heard_by != nullptr) heard_by->launch(together, threads);
  for (int first = 0; first < blocks; first += together) {
    std::vector<std::unique_ptr<std::byte, FreeDeleter>> shared;
    machine.resident.assign(static_cast<std::size_t>(together), Block{});
    for (int i = 0; i < together; ++i) {
      shared.push_back(new_shared());
      start_block(machine.resident[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(first + i)],
                  shared.back().get(), i);
    }
    run_resident();
  }
}

}  // namespace wordkiln::simt
