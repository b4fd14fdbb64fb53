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

template <typename T>
void forward(const SwigluForward& a) {
  share_vectors<T>(a.count, [&](int64_t i, int lanes) {
    const Vec<T> gate = load(static_cast<const T*>(a.gate) + i, lanes);
    const Vec<T> up = load(static_cast<const T*>(a.up) + i, lanes);
    store(static_cast<T*>(a.out) + i, gate * sigmoid<T>(gate) * up, lanes);
  });
}

template <typename T>
void backward(const SwigluBackward& a) {
  share_vectors<T>(a.count, [&](int64_t i, int lanes) {
    const Vec<T> gate = load(static_cast<const T*>(a.gate) + i, lanes);
    const Vec<T> up = load(static_cast<const T*>(a.up) + i, lanes);
    const Vec<T> grad = load(static_cast<const T*>(a.grad_out) + i, lanes);
    const Vec<T> open = sigmoid<T>(gate);
    store(static_cast<T*>(a.grad_gate) + i, grad * up * open * (T{1} + gate * (T{1} - open)), lanes);
    store(static_cast<T*>(a.grad_up) + i, grad * gate * open, lanes);
  });
}

}  // namespace

void swiglu_forward_float32(const SwigluForward& arguments) { forward<float>(arguments); }
void swiglu_forward_float64(const SwigluForward& arguments) { forward<double>(arguments); }
void swiglu_backward_float32(const SwigluBackward& arguments) { backward<float>(arguments); }
void swiglu_backward_float64(const SwigluBackward& arguments) { backward<double>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
