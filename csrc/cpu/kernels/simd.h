// Vectors of one register through the compiler's vector extensions: the same source on every instruction set.
// Everything is in an unnamed namespace: no symbol of a kernel file can be merged with another instruction set's.
#pragma once

#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define WORDKILN_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define WORDKILN_VECTOR_BYTES 32
#else
#define WORDKILN_VECTOR_BYTES 16
#endif

#define WORDKILN_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define WORDKILN_UNROLL _Pragma("unroll")
#else
#define WORDKILN_UNROLL _Pragma("GCC unroll 16")
#endif

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

template <typename T>
struct Simd;

template <>
struct Simd<float> {
  typedef float Vec __attribute__((vector_size(WORDKILN_VECTOR_BYTES)));
  typedef int32_t Int __attribute__((vector_size(WORDKILN_VECTOR_BYTES)));
};

template <>
struct Simd<double> {
  typedef double Vec __attribute__((vector_size(WORDKILN_VECTOR_BYTES)));
  typedef int64_t Int __attribute__((vector_size(WORDKILN_VECTOR_BYTES)));
};

template <typename T>
using Vec = typename Simd<T>::Vec;

// Elements in a vector.
template <typename T>
constexpr int kLanes = WORDKILN_VECTOR_BYTES / sizeof(T);

template <typename T>
WORDKILN_INLINE Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

template <typename T>
WORDKILN_INLINE Vec<T> load(const T* from) {
  Vec<T> x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

template <typename T>
WORDKILN_INLINE void store(T* to, Vec<T> x) {
  __builtin_memcpy(to, &x, sizeof x);
}

// The first `lanes` elements; the others are 0. Reads nothing beyond them.
template <typename T>
WORDKILN_INLINE Vec<T> load(const T* from, int lanes) {
  if (lanes >= kLanes<T>) return load(from);
  Vec<T> x = {};
  for (int i = 0; i < lanes; ++i) x[i] = from[i];
  return x;
}

template <typename T>
WORDKILN_INLINE void store(T* to, Vec<T> x, int lanes) {
  if (lanes >= kLanes<T>) return store(to, x);
  for (int i = 0; i < lanes; ++i) to[i] = x[i];
}

#if defined(__AVX512F__)
// Masked, as GCC copies a variable number of elements through memory: several stores and a stall for each load.
template <>
WORDKILN_INLINE Vec<float> load(const float* from, int lanes) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes >= 16 ? 0xffff : (1 << lanes) - 1), from);
}

template <>
WORDKILN_INLINE void store(float* to, Vec<float> x, int lanes) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(lanes >= 16 ? 0xffff : (1 << lanes) - 1), x);
}
#endif

// body(offset, lanes) for each vector of begin..end: all whole but the last.
template <typename T, typename Body>
WORDKILN_INLINE void for_vectors(int64_t begin, int64_t end, Body body) {
  int64_t i = begin;
  for (; i + kLanes<T> <= end; i += kLanes<T>) body(i, kLanes<T>);
  if (i < end) body(i, static_cast<int>(end - i));
}

// 1 / x to one unit in the last place, for a normal x.
template <typename T>
WORDKILN_INLINE Vec<T> reciprocal(Vec<T> x) {
  return T{1} / x;
}

#if defined(__AVX512F__)
// 14 bits and a Newton step: a quarter of the division's time.
template <>
WORDKILN_INLINE Vec<float> reciprocal<float>(Vec<float> x) {
  const Vec<float> guess = _mm512_maskz_rcp14_ps(0xffff, x);  // the plain one: GCC 12 warns of its own header
  return guess + guess * (1.0f - x * guess);
}
#endif

// The second where the comparison fails, so for a NaN in either.
template <typename T>
WORDKILN_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

template <typename T>
WORDKILN_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return a < b ? a : b;
}

#if defined(__AVX512F__)
// One instruction; GCC 12 makes a comparison and a choice of it.
template <>
WORDKILN_INLINE Vec<float> max<float>(Vec<float> a, Vec<float> b) {
  return _mm512_maskz_max_ps(0xffff, a, b);  // the plain one: GCC 12 warns of its own header
}

template <>
WORDKILN_INLINE Vec<float> min<float>(Vec<float> a, Vec<float> b) {
  return _mm512_maskz_min_ps(0xffff, a, b);
}
#endif

// Storage only: the upper half of a float32. `load` widens, `store` narrows, everything between is float32.
struct Bfloat16 {
  uint16_t bits;
};

template <typename T>
struct ComputedType {
  typedef T Type;
};

template <>
struct ComputedType<Bfloat16> {
  typedef float Type;
};

// The type in which elements stored as T are computed with.
template <typename T>
using Computed = typename ComputedType<T>::Type;

typedef uint16_t HalfWords __attribute__((vector_size(WORDKILN_VECTOR_BYTES / 2)));
typedef uint32_t Words __attribute__((vector_size(WORDKILN_VECTOR_BYTES)));

WORDKILN_INLINE float widen(float x) { return x; }

WORDKILN_INLINE double widen(double x) { return x; }

WORDKILN_INLINE float widen(Bfloat16 x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16); }

// One instruction and a shift; GCC 12 would take the vector apart and put it together again.
WORDKILN_INLINE Vec<float> widen(HalfWords x) {
#if defined(__AVX512F__)
  return (Vec<float>)((Words)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)x) << 16);
#elif defined(__AVX2__)
  return (Vec<float>)((Words)_mm256_cvtepu16_epi32((__m128i)x) << 16);
#else
  return (Vec<float>)(__builtin_convertvector(x, Words) << 16);
#endif
}

// To the nearest, ties to even; denormals become 0 and a NaN stays one: as the processor's instruction does it.
WORDKILN_INLINE HalfWords narrow(Vec<float> x) {
#if defined(__AVX512BF16__)
  return (HalfWords)_mm512_cvtneps_pbh(x);
#else
  const Words bits = (Words)x, sign = bits & 0x80000000u, size = bits & 0x7fffffffu;
  const Words rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const Words normal = size < 0x00800000u ? sign : rounded;
  return __builtin_convertvector((size > 0x7f800000u ? bits | 0x00400000u : normal) >> 16, HalfWords);
#endif
}

WORDKILN_INLINE Vec<float> load(const Bfloat16* from) {
  HalfWords x;
  __builtin_memcpy(&x, from, sizeof x);
  return widen(x);
}

WORDKILN_INLINE void store(Bfloat16* to, Vec<float> x) {
  const HalfWords narrowed = narrow(x);
  __builtin_memcpy(to, &narrowed, sizeof narrowed);
}

// Masked as those of float32 are.
WORDKILN_INLINE Vec<float> load(const Bfloat16* from, int lanes) {
  if (lanes >= kLanes<float>) return load(from);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return widen((HalfWords)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1 << lanes) - 1), from));
#else
  HalfWords x = {};
  for (int i = 0; i < lanes; ++i) x[i] = from[i].bits;
  return widen(x);
#endif
}

WORDKILN_INLINE void store(Bfloat16* to, Vec<float> x, int lanes) {
  if (lanes >= kLanes<float>) return store(to, x);
  const HalfWords narrowed = narrow(x);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1 << lanes) - 1), (__m256i)narrowed);
#else
  for (int i = 0; i < lanes; ++i) to[i].bits = narrowed[i];
#endif
}

// The low half of x * y in 64 bits, and its high half.
WORDKILN_INLINE Words multiply_wide(Words x, uint32_t y, Words& high) {
  typedef uint64_t Wide __attribute__((vector_size(WORDKILN_VECTOR_BYTES)));
  const Wide even = ((Wide)x & 0xffffffffu) * y, odd = ((Wide)x >> 32) * y;
  high = (Words)((even >> 32) | (odd & ~uint64_t{0xffffffffu}));
  return x * y;
}

// Bytes as the integers they are. One instruction, which GCC 12 does not find: it takes the elements apart.
WORDKILN_INLINE Simd<float>::Int load_bytes(const int8_t* from) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return (Simd<float>::Int)_mm512_maskz_cvtepi8_epi32(0xffff, bytes);  // the plain one: GCC 12 warns of its own header
#elif defined(__AVX2__)
  return (Simd<float>::Int)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
  typedef int8_t Bytes __attribute__((vector_size(kLanes<float>)));
  Bytes bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, Simd<float>::Int);
#endif
}

template <int... I>
struct Indices {};

template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};

template <int... I>
struct MakeIndices<0, I...> {
  typedef Indices<I...> Type;
};

template <typename T, int... I>
WORDKILN_INLINE Vec<T> swap_halves(Vec<T> x, int group, Indices<I...>) {
  switch (group) {  // a constant wherever this is inlined
    case 16:
      return __builtin_shufflevector(x, x, (I ^ 8) % static_cast<int>(sizeof...(I))...);
    case 8:
      return __builtin_shufflevector(x, x, (I ^ 4) % static_cast<int>(sizeof...(I))...);
    case 4:
      return __builtin_shufflevector(x, x, (I ^ 2) % static_cast<int>(sizeof...(I))...);
    default:
      return __builtin_shufflevector(x, x, (I ^ 1)...);
  }
}

// Of all lanes, by halves: log2(kLanes) steps.
template <typename T>
WORDKILN_INLINE T sum(Vec<T> x) {
  WORDKILN_UNROLL
  for (int group = kLanes<T>; group > 1; group /= 2) {
    x += swap_halves<T>(x, group, typename MakeIndices<kLanes<T>>::Type{});
  }
  return x[0];
}

// A NaN in any lane may or may not come through.
template <typename T>
WORDKILN_INLINE T largest(Vec<T> x) {
  WORDKILN_UNROLL
  for (int group = kLanes<T>; group > 1; group /= 2) {
    x = max<T>(swap_halves<T>(x, group, typename MakeIndices<kLanes<T>>::Type{}), x);
  }
  return x[0];
}

template <typename T, int... I>
WORDKILN_INLINE void interleave(Vec<T>& a, Vec<T>& b, Indices<I...>) {
  constexpr int kHalf = sizeof...(I) / 2, kAll = sizeof...(I);
  const Vec<T> low = __builtin_shufflevector(a, b, (I % 2 * kAll + I / 2)...);
  b = __builtin_shufflevector(a, b, (I % 2 * kAll + kHalf + I / 2)...);
  a = low;
}

// The sum of each of kLanes vectors, in the lane of its number. Overwrites them.
template <typename T>
WORDKILN_INLINE Vec<T> sum_each(Vec<T> (&x)[kLanes<T>]) {
  WORDKILN_UNROLL
  for (int half = kLanes<T> / 2; half > 0; half /= 2) {
    WORDKILN_UNROLL
    for (int i = 0; i < half; ++i) {
      interleave<T>(x[i], x[i + half], typename MakeIndices<kLanes<T>>::Type{});
      x[i] += x[i + half];
    }
  }
  return x[0];
}

template <typename T, int... I>
WORDKILN_INLINE typename Simd<T>::Int numbers(Indices<I...>) {
  return typename Simd<T>::Int{I...};
}

// 0, 1, 2, ...
template <typename T>
WORDKILN_INLINE typename Simd<T>::Int lane_numbers() {
  return numbers<T>(typename MakeIndices<kLanes<T>>::Type{});
}

// Lane j of register i becomes lane i of register j: log2(kLanes) rounds of a perfect shuffle.
template <typename T>
WORDKILN_INLINE void transpose_registers(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int kSide = kLanes<T>;
  Vec<T> next[kSide];
  WORDKILN_UNROLL
  for (int round = 1; round < kSide; round *= 2) {
    WORDKILN_UNROLL
    for (int i = 0; i < kSide / 2; ++i) {
      next[2 * i] = rows[i];
      next[2 * i + 1] = rows[i + kSide / 2];
      interleave<T>(next[2 * i], next[2 * i + 1], typename MakeIndices<kSide>::Type{});
    }
    WORDKILN_UNROLL
    for (int i = 0; i < kSide; ++i) rows[i] = next[i];
  }
}

// to[j * to_row + i] = from[i * from_row + j] for a square of kLanes.
template <typename Stored, typename T = Computed<Stored>>
WORDKILN_INLINE void transpose_square(const Stored* from, int64_t from_row, T* to, int64_t to_row) {
  constexpr int kSide = kLanes<T>;
  Vec<T> rows[kSide];
  WORDKILN_UNROLL
  for (int i = 0; i < kSide; ++i) rows[i] = load(from + i * from_row);
  transpose_registers<T>(rows);
  WORDKILN_UNROLL
  for (int i = 0; i < kSide; ++i) store(to + i * to_row, rows[i]);
}

// to[j * to_row + i] = from[i * from_row + j] for i < rows, 0 for rows <= i < kLanes; j < depth.
template <typename Stored, typename T = Computed<Stored>>
void transpose(const Stored* from, int64_t from_row, int64_t rows, int64_t depth, T* to, int64_t to_row) {
  constexpr int kSide = kLanes<T>;
  int64_t j = 0;
  if (rows >= kSide) {
    for (; j + kSide <= depth; j += kSide) transpose_square(from + j, from_row, to + j * to_row, to_row);
  }
  for (; j < depth; ++j) {
    for (int64_t i = 0; i < kSide; ++i) to[j * to_row + i] = i < rows ? widen(from[i * from_row + j]) : T{0};
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
