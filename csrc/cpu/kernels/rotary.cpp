// One pass over x, where expressions of torch make five and a copy.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/parallel.h"
#include "cpu/kernels/simd.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kRowsOfItem = 16;

template <typename T, typename C>
void rotate_head(const T* x, const C* cos, const C* sin, C sign, int64_t half, T* out) {
  for (int64_t i = 0; i < half; i += kLanes<C>) {
    const int lanes = half - i < kLanes<C> ? static_cast<int>(half - i) : kLanes<C>;
    const Vec<C> first = load(x + i, lanes), second = load(x + half + i, lanes);
    const Vec<C> c = load(cos + i, lanes), s = sign * load(sin + i, lanes);
    store(out + i, first * c - second * s, lanes);
    store(out + half + i, second * c + first * s, lanes);
  }
}

template <typename T, typename C = Computed<T>>
void rotate(const Rotary& a) {
  const int64_t half = a.head_size / 2, row_size = a.heads * a.head_size;
  const C sign = a.back ? C{-1} : C{1};
  // An element costs about as much as a few multiply-adds: it comes from memory.
  const int threads = threads_for(4.0 * static_cast<double>(a.rows) * static_cast<double>(row_size));
  const int64_t items = (a.rows + kRowsOfItem - 1) / kRowsOfItem;
  parallel_items(items, threads, [&](int64_t item, int) {
    const int64_t end = (item + 1) * kRowsOfItem < a.rows ? (item + 1) * kRowsOfItem : a.rows;
    for (int64_t row = item * kRowsOfItem; row < end; ++row) {
      for (int64_t head = 0; head < a.heads; ++head) {
        const int64_t at = head * a.head_size;
        rotate_head(static_cast<const T*>(a.x) + row * a.x_row + at, static_cast<const C*>(a.cos) + row * half,
                    static_cast<const C*>(a.sin) + row * half, sign, half,
                    static_cast<T*>(a.out) + row * row_size + at);
      }
    }
  });
}

}  // namespace

void rotary_float32(const Rotary& arguments) { rotate<float>(arguments); }

void rotary_float64(const Rotary& arguments) { rotate<double>(arguments); }

void rotary_bfloat16(const Rotary& arguments) { rotate<Bfloat16>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
