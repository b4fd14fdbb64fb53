// Work sharing over the process's one OpenMP pool.
#pragma once

#include <omp.h>
#include <sched.h>
#include <stdint.h>

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

struct Range {
  int64_t begin, end;
};

// Part `index` of `parts` nearly equal ones of 0..count.
inline Range split(int64_t count, int64_t index, int64_t parts) {
  const int64_t size = count / parts, larger = count % parts;
  const int64_t begin = index * size + (index < larger ? index : larger);
  return {begin, begin + size + (index < larger ? 1 : 0)};
}

// How many threads to use for `work` multiply-adds: starting one costs about a microsecond, some 30,000 of them.
inline int threads_for(double work) {
  const int threads = omp_get_max_threads();
  const double useful = work / 60000 + 1;
  return useful < threads ? static_cast<int>(useful) : threads;
}

// body(item, thread) for each item; which thread takes which is left to the moment, so items must not depend on it.
template <typename Body>
void parallel_items(int64_t items, int threads, Body body) {
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < items; ++item) body(item, thread);
  }
}

// body(thread, threads) once in each; barrier() may be called inside.
template <typename Body>
void parallel_threads(int threads, Body body) {
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
}

inline void barrier() {
#pragma omp barrier
}

// A barrier for threads that meet every few microseconds: about a microsecond a time quicker than the pool's own one
// (measured with the libgomp that torch brings).
class SpinBarrier {
 public:
  // while_waiting(): some nanoseconds of what can be done meanwhile; false where nothing is left.
  template <typename Work>
  void wait(int threads, Work while_waiting) {
    const int64_t round = __atomic_load_n(&round_, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&arrived_, 1, __ATOMIC_ACQ_REL) == threads) {
      __atomic_store_n(&arrived_, 0, __ATOMIC_RELAXED);
      __atomic_store_n(&round_, round + 1, __ATOMIC_RELEASE);
      return;
    }
    for (int spins = 0; __atomic_load_n(&round_, __ATOMIC_ACQUIRE) == round;) {
      if (while_waiting()) continue;
      if (spins++ < kSpins) {
        relax();
      } else {
        sched_yield();  // more threads than processors: the last one may need this one's
      }
    }
  }

  void wait(int threads) {
    wait(threads, [] { return false; });
  }

 private:
  static constexpr int kSpins = 1000;  // some 50 us

  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  alignas(64) int64_t round_ = 0;
  alignas(64) int arrived_ = 0;
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
