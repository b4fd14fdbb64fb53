// The executor's state, for the parts of it: executor.cpp runs the threads, meetings.cpp is where they meet, memory.cpp
// what they copy.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "simt/executor.h"
#include "simt/fiber.h"
#include "simt/observer.h"

namespace wordkiln::simt {

constexpr int kLanes = 32;

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
};

extern Machine machine;
extern constinit Observer* heard_by;  // set while statics are initialised, maybe before `machine` is

uint64_t draw();  // a random number of the schedule's
bool in_shared(const void* p, std::size_t bytes);

inline bool aligned(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

inline void wait_at(State state, Site site) {
  machine.self->state = state;
  machine.self->site = site;
}

// Whether all of these threads stand at the same place.
inline bool all_at(Thread* const* threads, int count, State state, int line) {
  return std::all_of(threads, threads + count,
                     [=](const Thread* t) { return t->state == state && t->site.line == line; });
}

}  // namespace wordkiln::simt
