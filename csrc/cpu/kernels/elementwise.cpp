#include "cpu/kernels/kernels.h"
#include "cpu/kernels/math.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename T, typename Function>
void apply(const T* x, T* out, int64_t count, Function function) {
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const int lanes = count - i < kLanes<T> ? static_cast<int>(count - i) : kLanes<T>;
    store(out + i, function(load(x + i, lanes)), lanes);
  }
}

template <typename T>
void elementwise(ElementwiseFunction function, const void* x, void* out, int64_t count) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(out);
  switch (function) {
    case ElementwiseFunction::kExp:
      return apply(from, to, count, [](Vec<T> v) { return exp<T>(v); });
    case ElementwiseFunction::kSigmoid:
      return apply(from, to, count, [](Vec<T> v) { return sigmoid<T>(v); });
    case ElementwiseFunction::kTanh:
      return apply(from, to, count, [](Vec<T> v) { return tanh<T>(v); });
  }
}

}  // namespace

void elementwise_float32(ElementwiseFunction function, const void* x, void* out, int64_t count) {
  elementwise<float>(function, x, out, count);
}

void elementwise_float64(ElementwiseFunction function, const void* x, void* out, int64_t count) {
  elementwise<double>(function, x, out, count);
}

}  // namespace wordkiln::cpu::WORDKILN_ISA
