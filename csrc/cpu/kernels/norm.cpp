// A row is read from memory once: its second pass finds it in cache.
#include "wordkiln/norm.h"

#include "cpu/kernels/column_sums.h"
#include "cpu/kernels/kernels.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename T, typename C = Computed<T>>
void forward(const RmsNormForward& a) {
  const int64_t width = a.width;
  const T* weight = static_cast<const T*>(a.weight);
  const double size = static_cast<double>(a.rows) * static_cast<double>(width);
  parallel_threads(threads_for(4 * size), [&](int thread, int threads) {
    const Range rows = split(a.rows, thread, threads);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const T* x = static_cast<const T*>(a.x) + i * width;
      T* out = static_cast<T*>(a.out) + i * width;
      Vec<C> squares = {};
      if (a.residual) {
        const T* residual = static_cast<const T*>(a.residual) + i * width;
        T* total = static_cast<T*>(a.total) + i * width;
        for_vectors<C>(0, width, [&](int64_t j, int lanes) {
          store(total + j, load(x + j, lanes) + load(residual + j, lanes), lanes);
          const Vec<C> y = load(total + j, lanes);  // as it was rounded: the same bits as without fusing
          squares += y * y;
        });
        x = total;
      } else {
        for_vectors<C>(0, width, [&](int64_t j, int lanes) {
          const Vec<C> y = load(x + j, lanes);
          squares += y * y;
        });
      }
      const C mean = sum<C>(squares) / static_cast<C>(width);
      const C scale = C{1} / static_cast<C>(__builtin_sqrt(mean + static_cast<C>(a.eps)));
      static_cast<C*>(a.scale)[i] = scale;
      for_vectors<C>(0, width, [&](int64_t j, int lanes) {
        store(out + j, load(x + j, lanes) * scale * load(weight + j, lanes), lanes);
      });
    }
  });
}

// With y = x s w and s = 1 / sqrt(mean(x^2) + eps): dx = s (w dy - x s^2 mean(w dy x)), dw = sum of dy x s.
template <typename T, typename C = Computed<T>>
void backward(const RmsNormBackward& a) {
  const int64_t width = a.width;
  const T* weight = static_cast<const T*>(a.weight);
  const int threads = threads_for(8 * static_cast<double>(a.rows) * static_cast<double>(width));
  sum_columns<T>(a.rows, width, threads, static_cast<T*>(a.grad_weight), [&, width, weight](int64_t i, C* sums) {
    const T* x = static_cast<const T*>(a.total) + i * width;
    const T* grad = static_cast<const T*>(a.grad_out) + i * width;
    const T* other = a.grad_total ? static_cast<const T*>(a.grad_total) + i * width : nullptr;
    T* grad_x = static_cast<T*>(a.grad_x) + i * width;
    const C scale = static_cast<const C*>(a.scale)[i];
    Vec<C> dots = {};
    for_vectors<C>(0, width, [&](int64_t j, int lanes) {
      const Vec<C> product = load(grad + j, lanes) * load(x + j, lanes);
      dots += product * load(weight + j, lanes);
      store(sums + j, load(sums + j) + product * scale);
    });
    const C shrink = scale * scale * sum<C>(dots) / static_cast<C>(width);
    for_vectors<C>(0, width, [&](int64_t j, int lanes) {
      Vec<C> y = (load(weight + j, lanes) * load(grad + j, lanes) - load(x + j, lanes) * shrink) * scale;
      if (other) y += load(other + j, lanes);
      store(grad_x + j, y, lanes);
    });
  });
}

}  // namespace

void rms_norm_forward_float32(const RmsNormForward& arguments) { forward<float>(arguments); }
void rms_norm_forward_float64(const RmsNormForward& arguments) { forward<double>(arguments); }
void rms_norm_backward_float32(const RmsNormBackward& arguments) { backward<float>(arguments); }
void rms_norm_backward_float64(const RmsNormBackward& arguments) { backward<double>(arguments); }
void rms_norm_forward_bfloat16(const RmsNormForward& arguments) { forward<Bfloat16>(arguments); }
void rms_norm_backward_bfloat16(const RmsNormBackward& arguments) { backward<Bfloat16>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
