// The device vocabulary: all that kernels say beyond plain C++, each thing with one name, one meaning and two bodies.
// nvcc takes cuda/device/nvidia.h (PTX and intrinsics), any other compiler simt/device.h (the CPU executor), so the
// same kernel files run in tests on a machine without a GPU. Kernels contain no PTX, no intrinsic and no threadIdx.
//
// Grids and blocks have one dimension; blocks are whole warps of 32 lanes; lanes of a warp never part at a primitive
// that says "all lanes".
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define WORDKILN_DEVICE __device__ __forceinline__
#define WORDKILN_KERNEL(threads) __global__ void __launch_bounds__(threads)
#define WORDKILN_UNROLL _Pragma("unroll")
#define WORDKILN_PRAGMA(x) _Pragma(#x)
#define WORDKILN_UNROLL_BY(n) WORDKILN_PRAGMA(unroll n)
#else
#include "simt/executor.h"
#define WORDKILN_DEVICE inline
#define WORDKILN_KERNEL(threads) void
#define WORDKILN_UNROLL
#define WORDKILN_UNROLL_BY(n)
#endif

namespace wordkiln::device {

// Where a primitive is called; the CPU executor tells it when threads do not meet.
#if defined(__CUDACC__)
struct Site {
  WORDKILN_DEVICE static Site here() { return {}; }
};
#else
using Site = simt::Site;
#endif

// --- elements ---

struct Bfloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

WORDKILN_DEVICE float to_float(Bfloat16 x);
WORDKILN_DEVICE float to_float(Float16 x);
WORDKILN_DEVICE float to_float(float x) { return x; }

// Rounds to nearest, ties to even. T: Bfloat16, Float16 or float.
template <typename T>
WORDKILN_DEVICE T from_float(float x);

// Two elements in a register, `low` at the lower address. T: Bfloat16 or Float16.
template <typename T>
WORDKILN_DEVICE uint32_t pack(float low, float high);

// Sixteen bytes that are read and written at once. The address is a multiple of 16.
struct alignas(16) Chunk {
  uint32_t words[4];
};

// --- where a thread is ---

WORDKILN_DEVICE int thread_index();  // in its block
WORDKILN_DEVICE int block_index();   // in the grid
WORDKILN_DEVICE int block_count();
WORDKILN_DEVICE int lane() { return thread_index() % 32; }
WORDKILN_DEVICE int warp_index() { return thread_index() / 32; }

// The same number, which the compiler does not know to be the same: what depends on it is not computed ahead of a loop
// and kept in registers.
WORDKILN_DEVICE int recomputed(int x);

// --- memory ---

// The block's shared memory as the kernel's own struct; the launch gives sizeof(T) bytes, or more.
template <typename T>
WORDKILN_DEVICE T& shared();

// Copies 16 bytes to shared memory, without waiting; writes zeros and reads nothing where not `valid`. Both addresses
// are multiples of 16. It reads what other blocks wrote before the last sync_grid (through L2, not L1).
WORDKILN_DEVICE void cp_async16(void* shared, const void* global, bool valid = true, Site site = Site::here());

// Ends a group of copies of this thread.
WORDKILN_DEVICE void cp_async_commit();

// Until at most kPending of this thread's groups are under way. Others see the copies after a barrier.
template <int kPending>
WORDKILN_DEVICE void cp_async_wait();

// Reads past L1: what other blocks wrote before the last sync_grid. T has 4, 8 or 16 bytes.
template <typename T>
WORDKILN_DEVICE T load_uncached(const T* global);

// --- a warp, all lanes ---

// Four 8 x 8 matrices of 16-bit elements from shared memory. Lane i gives the address of row i % 8 of matrix i / 8 and
// gets of each matrix the elements (i / 4, i % 4 * 2) and the one right of it; transposed: (i % 4 * 2, i / 4) and the
// one below it.
WORDKILN_DEVICE void ldmatrix_x4(uint32_t (&matrices)[4], const void* row, Site site = Site::here());
WORDKILN_DEVICE void ldmatrix_x4_trans(uint32_t (&matrices)[4], const void* row, Site site = Site::here());

// d += a b with a 16 x 16, b 16 x 8, of T (Bfloat16 or Float16), sums in float32. Lane i holds of
//   a: rows i / 4 and + 8 in words 0 and 1, columns i % 4 * 2 and + 1; the same 8 columns further in words 2 and 3
//   b: column i / 4, rows i % 4 * 2 and + 1 in b0; the same 8 rows further in b1
//   d: row i / 4, columns i % 4 * 2 and + 1 in 0 and 1; the same 8 rows further in 2 and 3
template <typename T>
WORDKILN_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  Site site = Site::here());

// The value of the lane whose number is this one's ^ mask, or `source`. T has 4 bytes.
template <typename T>
WORDKILN_DEVICE T shfl_xor(T value, int mask, Site site = Site::here());
template <typename T>
WORDKILN_DEVICE T shfl(T value, int source, Site site = Site::here());

// Lanes see what the others wrote before.
WORDKILN_DEVICE void sync_warp(Site site = Site::here());

// --- blocks ---

// All threads of the block see what the others wrote before.
WORDKILN_DEVICE void sync_block(Site site = Site::here());

// The same of all blocks of a cooperative launch. `counter`: one global word, 0 when the kernel starts; `phase`: 1 at
// the first meeting, 2 at the second and so on. What others wrote is read with cp_async16 or load_uncached.
WORDKILN_DEVICE void sync_grid(unsigned* counter, unsigned phase, Site site = Site::here());

// --- mathematics ---

WORDKILN_DEVICE float exp2_fast(float x);     // 2 ulp; denormal results are 0
WORDKILN_DEVICE float sigmoid_fast(float x);  // absolute error below 1e-6
WORDKILN_DEVICE float tanh_fast(float x);     // absolute error below 1e-6

// The 64-bit product's low half, and its high: what common/philox.h multiplies with.
WORDKILN_DEVICE uint32_t multiply_wide(uint32_t x, uint32_t y, uint32_t& high);

}  // namespace wordkiln::device

#if defined(__CUDACC__)
#include "cuda/device/nvidia.h"
#else
#include "simt/device.h"
#endif
