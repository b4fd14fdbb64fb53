#include "simt/faults.h"

#include <map>

#include "cuda/device/device.h"
#include "cuda/device/launch.h"

namespace wordkiln {
namespace {

using namespace device;

constexpr int kThreads = 64;

struct Shared {
  alignas(16) unsigned char bytes[16 * kThreads];
};

struct Arguments {
  const unsigned char* global;
  unsigned* counter;
  unsigned* word;
};

// Sixteen bytes of each thread.
unsigned char* of_thread(int i) { return shared<Shared>().bytes + i % kThreads * 16; }

void none(Arguments a) {
  cp_async16(of_thread(thread_index()), a.global);
  cp_async_commit();
  cp_async_wait<0>();
  sync_block();
  sync_grid(a.counter, 1);
  sync_grid(a.counter, 2);
}

void barrier_in_a_branch(Arguments) {
  if (warp_index() == 0) sync_block();
}

void barriers_in_two_places(Arguments) {
  if (warp_index() == 0) {
    sync_block();
  } else {
    sync_block();
  }
}

void shuffle_in_a_branch(Arguments) {
  if (lane() < 16) shfl_xor(1.0f, 1);
}

void copy_never_waited_for(Arguments a) {
  cp_async16(shared<Shared>().bytes, a.global);
  cp_async_commit();
}

void copy_misaligned(Arguments a) { cp_async16(shared<Shared>().bytes, a.global + 8); }

void copy_outside(Arguments a) { cp_async16(shared<Shared>().bytes + sizeof(Shared), a.global); }

void matrix_outside(Arguments) {
  uint32_t matrices[4];
  ldmatrix_x4(matrices, shared<Shared>().bytes + sizeof(Shared));
}

struct Larger {
  Shared parts[2];
};

void shared_too_small(Arguments) { shared<Larger>(); }

void grid_phase_left_out(Arguments a) { sync_grid(a.counter, 2); }

// Races, which the build with simt/races.cpp finds. A warp's barrier is none between warps, a shuffle none at all.
void warp_barrier_between_warps(Arguments) {
  of_thread(thread_index())[0] = 1;
  sync_warp();
  of_thread(thread_index())[8] = of_thread(thread_index() + 32)[0];
}

void shuffle_as_a_barrier(Arguments) {
  of_thread(thread_index())[0] = 1;
  shfl_xor(1.0f, 1);
  of_thread(thread_index())[8] = of_thread(thread_index() ^ 1)[0];
}

void copy_read_too_soon(Arguments a) {
  cp_async16(of_thread(thread_index()), a.global);
  cp_async_commit();
  of_thread(thread_index() + 1)[8] = 1;
  cp_async_wait<0>();
}

void blocks_write_the_same(Arguments a) {
  if (thread_index() == 0) *a.word = static_cast<unsigned>(block_index());
}

const std::map<std::string, void (*)(Arguments)> kFaults = {
    {"none", none},
    {"barrier in a branch", barrier_in_a_branch},
    {"barriers in two places", barriers_in_two_places},
    {"shuffle in a branch", shuffle_in_a_branch},
    {"copy never waited for", copy_never_waited_for},
    {"copy misaligned", copy_misaligned},
    {"copy outside", copy_outside},
    {"matrix outside", matrix_outside},
    {"shared too small", shared_too_small},
    {"grid phase left out", grid_phase_left_out},
    {"warp barrier between warps", warp_barrier_between_warps},
    {"shuffle as a barrier", shuffle_as_a_barrier},
    {"copy read too soon", copy_read_too_soon},
    {"blocks write the same", blocks_write_the_same},
};

}  // namespace

void simt::run_fault(const std::string& name) {
  alignas(16) const unsigned char global[64] = {};
  unsigned counter = 0, word = 0;
  launch(kFaults.at(name), 2, kThreads, sizeof(Shared), nullptr, Launch::kCooperative,
         Arguments{global, &counter, &word});
}

}  // namespace wordkiln
