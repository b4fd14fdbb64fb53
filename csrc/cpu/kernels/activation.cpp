#include "wordkiln/activation.h"

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/math.h"
#include "cpu/kernels/parallel.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// body(offset, lanes) for each vector of 0..count, shared by the threads in runs of whole vectors.
template <typename T, typename Body>
void share_vectors(int64_t count, Body body) {
  const int64_t vectors = (count + kLanes<T> - 1) / kLanes<T>;
  parallel_threads(threads_for(16 * static_cast<double>(count)), [&](int thread, int threads) {
    const Range mine = split(vectors, thread, threads);
    for (int64_t i = mine.begin * kLanes<T>; i < mine.end * kLanes<T>; i += kLanes<T>) {
      body(i, count - i < kLanes<T> ? static_cast<int>(count - i) : kLanes<T>);
    }
  });
}

template <typename T, typename C = Computed<T>>
void forward(const SwigluForward& a) {
  share_vectors<C>(a.count, [&](int64_t i, int lanes) {
    const Vec<C> gate = load(static_cast<const T*>(a.gate) + i, lanes);
    const Vec<C> up = load(static_cast<const T*>(a.up) + i, lanes);
    store(static_cast<T*>(a.out) + i, gate * sigmoid<C>(gate) * up, lanes);
  });
}

template <typename T, typename C = Computed<T>>
void backward(const SwigluBackward& a) {
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

void swiglu_forward_float32(const SwigluForward& arguments) { forward<float>(arguments); }
void swiglu_forward_float64(const SwigluForward& arguments) { forward<double>(arguments); }
void swiglu_backward_float32(const SwigluBackward& arguments) { backward<float>(arguments); }
void swiglu_backward_float64(const SwigluBackward& arguments) { backward<double>(arguments); }
void swiglu_forward_bfloat16(const SwigluForward& arguments) { forward<Bfloat16>(arguments); }
void swiglu_backward_bfloat16(const SwigluBackward& arguments) { backward<Bfloat16>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
