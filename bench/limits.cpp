// What the machine does at the most, for the fractions in the report: compiled and called by limits.py.
#include <omp.h>

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
typedef uint64_t Words __attribute__((vector_size(kBytes), aligned(1), may_alias));

// More than the latency times the throughput of two units of four steps.
constexpr int kChains = 12;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

// GFLOP/s in float32 of multiply-adds on registers, in `threads` threads for `duration` seconds.
extern "C" double fma_rate(int threads, double duration) {
  double rounds = 0, longest = 0;
#pragma omp parallel num_threads(threads) reduction(+ : rounds) reduction(max : longest)
  {
    Vector sums[kChains] = {}, factor = sums[0] + 0.5f;
    for (int i = 0; i < kChains; ++i) sums[i] += static_cast<float>(i);
    constexpr int kRounds = 100000;
    const double start = seconds();
    double passed = 0;
    while (passed < duration) {
      for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 16
        for (int i = 0; i < kChains; ++i) sums[i] = sums[i] * factor + factor;
      }
      asm volatile("" ::"m"(sums));
      rounds += kRounds;
      passed = seconds() - start;
    }
    longest = passed;
  }
  return rounds * kChains * (kBytes / sizeof(float)) * 2 / longest / 1e9;
}

// GB/s of reading all of `data` again and again, each of `threads` threads a part of its own, cut to a multiple of 256
// bytes. `data` may lie at any address.
extern "C" double read_rate(const void* data, size_t bytes, int threads, double duration) {
  double read = 0, longest = 0;
#pragma omp parallel num_threads(threads) reduction(+ : read) reduction(max : longest)
  {
    const size_t part = bytes / threads / 256 * 256;
    const char* from = static_cast<const char*>(data) + part * omp_get_thread_num();
    Words sums[4] = {};
    const double start = seconds();
    double passed = 0;
    while (passed < duration) {
      for (size_t i = 0; i < part; i += 4 * kBytes) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) sums[j] += *reinterpret_cast<const Words*>(from + i + j * kBytes);
      }
      asm volatile("" ::"m"(sums));
      read += static_cast<double>(part);
      passed = seconds() - start;
    }
    longest = passed;
  }
  return read / longest / 1e9;
}
