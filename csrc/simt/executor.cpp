#include "simt/executor.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "simt/machine.h"

namespace wordkiln::simt {

Machine machine;
constinit Observer* heard_by = nullptr;

// Xorshift (Marsaglia 2003).
uint64_t draw() {
  machine.random ^= machine.random << 13;
  machine.random ^= machine.random >> 7;
  machine.random ^= machine.random << 17;
  return machine.random;
}

namespace {

constexpr std::size_t kLargestShared = 227 * 1024;  // that of sm_90, the largest of all
constexpr int kLargestBlock = 1024;

struct FreeDeleter {
  void operator()(std::byte* p) const { std::free(p); }
};

template <typename T>
void shuffle_order(std::vector<T>& items) {
  for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[draw() % i]);
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
