// Runs GPU kernels on the CPU, for tests. Every GPU thread is a fiber; a barrier or a warp-wide instruction is where
// fibers meet. It looks for trouble: the order of the threads is chosen by the test, asynchronous copies land as late
// as they may, shared memory starts as NaN, and a meeting that some threads never come to is an error that names the
// file and line where each of them stands. Independent blocks run one after the other, those of a cooperative launch
// together. It is one machine a process and not for several host threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace wordkiln::simt {

struct Error : std::runtime_error {
  using runtime_error::runtime_error;
};

// Where a kernel calls a primitive.
struct Site {
  const char* file;
  int line;

  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

enum class Order {
  kInTurn,     // each thread to its next meeting, then the next thread
  kShuffled,   // the same, in another order every time
  kWarpAhead,  // one warp as far as it can get while all others stand still: lockstep would hide races
};

enum class Copies { kLate, kEarly, kRandom };  // when cp.async writes: when waited for, at once, or either

struct Schedule {
  Order order = Order::kInTurn;
  Copies copies = Copies::kLate;
  uint64_t seed = 0;
  int resident_blocks = 64;  // what resident_blocks() says: the most blocks of a cooperative launch
};

struct Counters {
  uint64_t launches, mma, ldmatrix, bank_conflicts, block_barriers, grid_barriers, shuffles, async_copies;
};

Schedule& schedule();
Counters& counters();

// The rest is called by kernels, in their threads; cuda/device/device.h says what each does.
int thread_index();
int block_index();
int block_count();
void* shared_memory(std::size_t bytes);
void cp_async16(void* shared, const void* global, bool valid, Site site);
void cp_async_commit();
void cp_async_wait(int pending);
void ldmatrix_x4(uint32_t (&matrices)[4], const void* row, bool transposed, Site site);
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*widen)(uint16_t), Site site);
uint32_t shuffle(uint32_t value, int source_lane, Site site);
void sync_warp(Site site);
void sync_block(Site site);
void sync_grid(unsigned* counter, unsigned phase, Site site);

// Ends the launch with an Error.
[[noreturn]] void fail(const char* why, Site site);

// A launch as the host asked for it: the kernel's mangled name, and its parameters as they lie in memory.
struct Request {
  std::string kernel;
  int blocks, threads;
  std::size_t shared_bytes;
  bool cooperative;
  std::string parameters;
};

// Where one is set, it gets the launches and the fibers none: tests run them in the interpreter of PTX.
std::function<void(const Request&)>& elsewhere();
bool runs_elsewhere();
void run_elsewhere(const void* kernel, int blocks, int threads, std::size_t shared_bytes, bool cooperative,
                   std::string parameters);

// Runs `kernel` once for each of blocks * threads threads. Throws Error for what is wrong with the kernel.
void run(int blocks, int threads, std::size_t shared_bytes, bool cooperative, const std::function<void()>& kernel);

}  // namespace wordkiln::simt
