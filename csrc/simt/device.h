// The device vocabulary on the CPU executor; cuda/device/device.h includes it and says what each name means.
#pragma once

#include <bit>
#include <cmath>

namespace wordkiln::device {

inline float to_float(Bfloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

inline float to_float(Float16 x) { return static_cast<float>(std::bit_cast<_Float16>(x.bits)); }

template <typename T>
T from_float(float x);

template <>
inline float from_float<float>(float x) {
  return x;
}

template <>
inline Float16 from_float<Float16>(float x) {
  return {std::bit_cast<uint16_t>(static_cast<_Float16>(x))};
}

template <>
inline Bfloat16 from_float<Bfloat16>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <typename T>
uint32_t pack(float low, float high) {
  return from_float<T>(low).bits | uint32_t{from_float<T>(high).bits} << 16;
}

inline int thread_index() { return simt::thread_index(); }
inline int block_index() { return simt::block_index(); }
inline int block_count() { return simt::block_count(); }

inline int recomputed(int x) { return x; }

template <typename T>
T& shared() {
  return *static_cast<T*>(simt::shared_memory(sizeof(T)));
}

inline void cp_async16(void* shared, const void* global, bool valid, Site site) {
  simt::cp_async16(shared, global, valid, site);
}

inline void cp_async_commit() { simt::cp_async_commit(); }

template <int kPending>
void cp_async_wait() {
  simt::cp_async_wait(kPending);
}

template <typename T>
T load_uncached(const T* global) {
  return *global;
}

inline void ldmatrix_x4(uint32_t (&matrices)[4], const void* row, Site site) {
  simt::ldmatrix_x4(matrices, row, false, site);
}

inline void ldmatrix_x4_trans(uint32_t (&matrices)[4], const void* row, Site site) {
  simt::ldmatrix_x4(matrices, row, true, site);
}

template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
  simt::mma_m16n8k16(d, a, b0, b1, [](uint16_t bits) { return to_float(T{bits}); }, site);
}

template <typename T>
T shfl(T value, int source, Site site) {
  return std::bit_cast<T>(simt::shuffle(std::bit_cast<uint32_t>(value), source, site));
}

template <typename T>
T shfl_xor(T value, int mask, Site site) {
  return shfl(value, lane() ^ mask, site);
}

inline void sync_warp(Site site) { simt::sync_warp(site); }
inline void sync_block(Site site) { simt::sync_block(site); }
inline void sync_grid(unsigned* counter, unsigned phase, Site site) { simt::sync_grid(counter, phase, site); }

// Denormals are kept here and are 0 on a GPU: results differ by less than 2^-126.
inline float exp2_fast(float x) { return std::exp2(x); }
inline float sigmoid_fast(float x) { return 1 / (1 + std::exp(-x)); }
inline float tanh_fast(float x) { return 2 * sigmoid_fast(2 * x) - 1; }

inline uint32_t multiply_wide(uint32_t x, uint32_t y, uint32_t& high) {
  const uint64_t product = uint64_t{x} * y;
  high = static_cast<uint32_t>(product >> 32);
  return static_cast<uint32_t>(product);
}

}  // namespace wordkiln::device
