#include "cpu/kernels/kernels.h"
#include "cpu/kernels/math.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename T, typename Function>
void apply(const T* x, T* out, int64_t count, Function function) {
  constexpr int kStep = kLanes<Computed<T>>;
  for (int64_t i = 0; i < count; i += kStep) {
    const int lanes = count - i < kStep ? static_cast<int>(count - i) : kStep;
    store(out + i, function(load(x + i, lanes)), lanes);
  }
}

template <typename T, typename C = Computed<T>>
void elementwise(ElementwiseFunction function, const void* x, void* out, int64_t count) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(out);
  switch (function) {
    case ElementwiseFunction::kExp:
      return apply(from, to, count, [](Vec<C> v) { return exp<C>(v); });
    case ElementwiseFunction::kSigmoid:
      return apply(from, to, count, [](Vec<C> v) { return sigmoid<C>(v); });
    case ElementwiseFunction::kTanh:
      return apply(from, to, count, [](Vec<C> v) { return tanh<C>(v); });
    case ElementwiseFunction::kErf:
      return apply(from, to, count, [](Vec<C> v) { return erf<C>(v); });
  }
}

}  // namespace

void elementwise_float32(ElementwiseFunction function, const void* x, void* out, int64_t count) {
  elementwise<float>(function, x, out, count);
}

void elementwise_float64(ElementwiseFunction function, const void* x, void* out, int64_t count) {
  elementwise<double>(function, x, out, count);
}

void elementwise_bfloat16(ElementwiseFunction function, const void* x, void* out, int64_t count) {
  elementwise<Bfloat16>(function, x, out, count);
}

}  // namespace wordkiln::cpu::WORDKILN_ISA
