// The device vocabulary for nvcc; cuda/device/device.h includes it and says what each name means. sm_80 and later.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace wordkiln::device {

WORDKILN_DEVICE float to_float(Bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

WORDKILN_DEVICE float to_float(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }

template <typename T>
WORDKILN_DEVICE T from_float(float x);

template <>
WORDKILN_DEVICE float from_float<float>(float x) {
  return x;
}

template <>
WORDKILN_DEVICE Bfloat16 from_float<Bfloat16>(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}

template <>
WORDKILN_DEVICE Float16 from_float<Float16>(float x) {
  return {__half_as_ushort(__float2half_rn(x))};
}

template <>
WORDKILN_DEVICE uint32_t pack<Bfloat16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

template <>
WORDKILN_DEVICE uint32_t pack<Float16>(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

WORDKILN_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
WORDKILN_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
WORDKILN_DEVICE int block_count() { return static_cast<int>(gridDim.x); }

WORDKILN_DEVICE int recomputed(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

template <typename T>
WORDKILN_DEVICE T& shared() {
  extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
  return *reinterpret_cast<T*>(dynamic_shared_memory);
}

WORDKILN_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

WORDKILN_DEVICE void cp_async16(void* shared, const void* global, bool valid, Site) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}

WORDKILN_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kPending>
WORDKILN_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

template <typename T>
WORDKILN_DEVICE T load_uncached(const T* global) {
  T value;
  if constexpr (sizeof(T) == 4) {
    const unsigned word = __ldcg(reinterpret_cast<const unsigned*>(global));
    memcpy(&value, &word, sizeof value);
  } else if constexpr (sizeof(T) == 8) {
    const uint2 words = __ldcg(reinterpret_cast<const uint2*>(global));
    memcpy(&value, &words, sizeof value);
  } else {
    const uint4 words = __ldcg(reinterpret_cast<const uint4*>(global));
    memcpy(&value, &words, sizeof value);
  }
  return value;
}

WORDKILN_DEVICE void ldmatrix_x4(uint32_t (&matrices)[4], const void* row, Site) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(shared_address(row))
               : "memory");
}

WORDKILN_DEVICE void ldmatrix_x4_trans(uint32_t (&matrices)[4], const void* row, Site) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(shared_address(row))
               : "memory");
}

template <>
WORDKILN_DEVICE void mma_m16n8k16<Bfloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
WORDKILN_DEVICE void mma_m16n8k16<Float16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <typename T>
WORDKILN_DEVICE T shfl_xor(T value, int mask, Site) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

template <typename T>
WORDKILN_DEVICE T shfl(T value, int source, Site) {
  return __shfl_sync(0xffffffffu, value, source);
}

WORDKILN_DEVICE void sync_warp(Site) { __syncwarp(); }

WORDKILN_DEVICE void sync_block(Site) { __syncthreads(); }

// A release by one thread of each block behind the block's barrier, and an acquire before the next: what the block
// wrote is seen by all (PTX ISA, memory consistency model: causality order is transitive through barriers).
WORDKILN_DEVICE void sync_grid(unsigned* counter, unsigned phase, Site) {
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned goal = phase * gridDim.x;
    unsigned seen;
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    } while (seen < goal);
  }
  __syncthreads();
}

WORDKILN_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

WORDKILN_DEVICE float sigmoid_fast(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// Not tanh.approx.f32, which is right to 11 bits only.
WORDKILN_DEVICE float tanh_fast(float x) { return 2 * sigmoid_fast(2 * x) - 1; }

WORDKILN_DEVICE uint32_t multiply_wide(uint32_t x, uint32_t y, uint32_t& high) {
  high = __umulhi(x, y);
  return x * y;
}

}  // namespace wordkiln::device
