#include "wordkiln/activation.h"

#include "cpu/kernels/column_sums.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/math.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

int threads_of(int64_t count) { return threads_for(16 * static_cast<double>(count)); }

// body(offset, lanes) for each vector of 0..count, shared by the threads in runs of whole vectors.
template <typename T, typename Body>
void share_vectors(int64_t count, Body body) {
  const int64_t vectors = (count + kLanes<T> - 1) / kLanes<T>;
  parallel_threads(threads_of(count), [&](int thread, int threads) {
    const Range mine = split(vectors, thread, threads);
    const int64_t end = mine.end * kLanes<T>;
    for_vectors<T>(mine.begin * kLanes<T>, end < count ? end : count, body);
  });
}

// Phi(y), the distribution function of the normal distribution, and its derivative.
template <typename C>
struct Normal {
  Vec<C> distribution, density;
};

// (1 + erf(y / sqrt(2))) / 2
template <typename C>
struct ByErf {
  static constexpr C kRootHalf{0.70710678118654752440}, kHalfLog2E{0.72134752044448170368};
  static constexpr C kHighest{0.39894228040143267794};  // sqrt(1 / (2 pi))

  static WORDKILN_INLINE Normal<C> at(Vec<C> y) {
    return {C{0.5} + C{0.5} * erf<C>(y * kRootHalf), exp2<C>(y * y * -kHalfLog2E) * kHighest};
  }
};

// (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (y + 0.044715 y^3). By e = exp(-2 |u|), as 1 + tanh(u) and 1 - tanh(u)^2 lose
// their digits in a difference.
template <typename C>
struct ByTanh {
  static constexpr C kLinear{1.5957691216057307118}, kCubic{0.071354816272600253};  // of 2 u
  static constexpr C kLog2E{1.4426950408889634074};

  static WORDKILN_INLINE Normal<C> at(Vec<C> y) {
    const Vec<C> square = y * y, power = y * (kLog2E * kLinear + kLog2E * kCubic * square);
    const Vec<C> e = exp2<C>(power < C{0} ? power : -power), larger = reciprocal<C>(C{1} + e), smaller = e * larger;
    return {power < C{0} ? smaller : larger, smaller * larger * (kLinear + C{3} * kCubic * square)};
  }
};

template <typename T, template <typename> typename Formula, typename C = Computed<T>>
void gelu_forward(const GeluForward& a) {
  const T* bias = static_cast<const T*>(a.bias);
  const auto run = [](const T* x, T* out, int lanes, Vec<C> shift) {
    const Vec<C> y = load(x, lanes) + shift;
    store(out, y * Formula<C>::at(y).distribution, lanes);
  };
  const T* x = static_cast<const T*>(a.x);
  T* out = static_cast<T*>(a.out);
  if (bias == nullptr) {
    return share_vectors<C>(a.rows * a.width, [=](int64_t i, int lanes) { run(x + i, out + i, lanes, Vec<C>{}); });
  }
  parallel_threads(threads_of(a.rows * a.width), [&](int thread, int threads) {
    const Range rows = split(a.rows, thread, threads);
    for (int64_t i = rows.begin * a.width; i < rows.end * a.width; i += a.width) {
      for_vectors<C>(0, a.width,
                     [=](int64_t j, int lanes) { run(x + i + j, out + i + j, lanes, load(bias + j, lanes)); });
    }
  });
}

// d(y Phi(y)) = Phi(y) + y Phi'(y).
template <typename T, template <typename> typename Formula, typename C = Computed<T>>
void gelu_backward(const GeluBackward& a) {
  const T *x = static_cast<const T*>(a.x), *grad = static_cast<const T*>(a.grad_out);
  const T* bias = static_cast<const T*>(a.bias);
  T* grad_x = static_cast<T*>(a.grad_x);
  const auto run = [=](int64_t i, int lanes, Vec<C> shift) {
    const Vec<C> y = load(x + i, lanes) + shift;
    const Normal<C> normal = Formula<C>::at(y);
    const Vec<C> result = load(grad + i, lanes) * (normal.distribution + y * normal.density);
    store(grad_x + i, result, lanes);
    return result;
  };
  if (bias == nullptr) {
    return share_vectors<C>(a.rows * a.width, [=](int64_t i, int lanes) { run(i, lanes, Vec<C>{}); });
  }
  T* grad_bias = static_cast<T*>(a.grad_bias);
  sum_columns<T>(a.rows, a.width, threads_of(a.rows * a.width), grad_bias, [=, &a](int64_t i, C* sums) {
    for_vectors<C>(0, a.width, [=, &a](int64_t j, int lanes) {
      store(sums + j, load(sums + j) + run(i * a.width + j, lanes, load(bias + j, lanes)));
    });
  });
}

template <typename T>
void gelu_forward(const GeluForward& a) {
  a.tanh ? gelu_forward<T, ByTanh>(a) : gelu_forward<T, ByErf>(a);
}

template <typename T>
void gelu_backward(const GeluBackward& a) {
  a.tanh ? gelu_backward<T, ByTanh>(a) : gelu_backward<T, ByErf>(a);
}

template <typename T, typename C = Computed<T>>
void swiglu_forward(const SwigluForward& a) {
  share_vectors<C>(a.count, [&](int64_t i, int lanes) {
    const Vec<C> gate = load(static_cast<const T*>(a.gate) + i, lanes);
    const Vec<C> up = load(static_cast<const T*>(a.up) + i, lanes);
    store(static_cast<T*>(a.out) + i, gate * sigmoid<C>(gate) * up, lanes);
  });
}

template <typename T, typename C = Computed<T>>
void swiglu_backward(const SwigluBackward& a) {
  share_vectors<C>(a.count, [&](int64_t i, int lanes) {
    const Vec<C> gate = load(static_cast<const T*>(a.gate) + i, lanes);
    const Vec<C> up = load(static_cast<const T*>(a.up) + i, lanes);
    const Vec<C> grad = load(static_cast<const T*>(a.grad_out) + i, lanes);
    const Vec<C> open = sigmoid<C>(gate);
    store(static_cast<T*>(a.grad_gate) + i, grad * up * open * (C{1} + gate * (C{1} - open)), lanes);
    store(static_cast<T*>(a.grad_up) + i, grad * gate * open, lanes);
  });
}

}  // namespace

void gelu_forward_float32(const GeluForward& arguments) { gelu_forward<float>(arguments); }
void gelu_backward_float32(const GeluBackward& arguments) { gelu_backward<float>(arguments); }
void gelu_forward_float64(const GeluForward& arguments) { gelu_forward<double>(arguments); }
void gelu_backward_float64(const GeluBackward& arguments) { gelu_backward<double>(arguments); }
void gelu_forward_bfloat16(const GeluForward& arguments) { gelu_forward<Bfloat16>(arguments); }
void gelu_backward_bfloat16(const GeluBackward& arguments) { gelu_backward<Bfloat16>(arguments); }
void swiglu_forward_float32(const SwigluForward& arguments) { swiglu_forward<float>(arguments); }
void swiglu_backward_float32(const SwigluBackward& arguments) { swiglu_backward<float>(arguments); }
void swiglu_forward_float64(const SwigluForward& arguments) { swiglu_forward<double>(arguments); }
void swiglu_backward_float64(const SwigluBackward& arguments) { swiglu_backward<double>(arguments); }
void swiglu_forward_bfloat16(const SwigluForward& arguments) { swiglu_forward<Bfloat16>(arguments); }
void swiglu_backward_bfloat16(const SwigluBackward& arguments) { swiglu_backward<Bfloat16>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
