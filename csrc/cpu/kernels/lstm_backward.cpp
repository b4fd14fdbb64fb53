// Back through time: per step the gradient of the pre-activations, element by element, then grad_h = grad_gates W.
// weight_hh is packed once as [panel of columns][4H][columns of a tile].
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lstm.h"
#include "cpu/kernels/math.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename T>
constexpr int64_t kPanel = kTileVectors * kLanes<T>;

constexpr int64_t kDepthBlock = 512;  // rows of a panel that stay in L2 while all rows of the batch pass

template <typename T>
class LstmBackwardPass {
 public:
  explicit LstmBackwardPass(const LstmBackward& a)
      : activations_(static_cast<const T*>(a.activations)),
        grad_gates_(static_cast<T*>(a.grad_gates)),
        weight_hh_(static_cast<const T*>(a.weight_hh)),
        c0_(static_cast<const T*>(a.c0)),
        cells_(static_cast<const T*>(a.cells)),
        grad_out_(static_cast<const T*>(a.grad_out)),
        grad_h_(static_cast<T*>(a.grad_h)),
        grad_c_(static_cast<T*>(a.grad_c)),
        sizes_(a.sizes),
        panels_((a.sizes.hidden + kPanel<T> - 1) / kPanel<T>) {}

  void run() {
    const int64_t width = panels_ * kPanel<T>, packed = width * 4 * sizes_.hidden;
    const Workspace workspace((packed + sizes_.batch * width) * sizeof(T));
    packed_ = static_cast<T*>(workspace.data());
    carried_ = packed_ + packed;
    parallel_threads(lstm_threads(sizes_.batch, sizes_.hidden), [this](int thread, int threads) {
      const Range mine = split(panels_, thread, threads);
      for (int64_t panel = mine.begin; panel < mine.end; ++panel) pack(panel);
      const LstmPart part = lstm_part(sizes_.batch, panels_, thread, threads);
      load_carried(part);
      barrier();
      for (int64_t t = sizes_.steps - 1; t >= 0; --t) {
        gate_gradients(t, part);
        if (part.shares_rows) barrier();
        carry(t, part);
      }
      store_carried(part);
    });
  }

 private:
  int64_t width() const { return panels_ * kPanel<T>; }

  Range units_of(const LstmPart& part) const {
    const int64_t end = part.blocks.end * kPanel<T>;
    return {part.blocks.begin * kPanel<T>, end < sizes_.hidden ? end : sizes_.hidden};
  }

  void pack(int64_t panel) {
    const int64_t hidden = sizes_.hidden, unit = panel * kPanel<T>;
    const int64_t units = hidden - unit < kPanel<T> ? hidden - unit : kPanel<T>;
    T* to = packed_ + unit * 4 * hidden;
    for (int64_t k = 0; k < 4 * hidden; ++k, to += kPanel<T>) {
      for (int64_t j = 0; j < kPanel<T>; ++j) to[j] = j < units ? weight_hh_[k * hidden + unit + j] : T{0};
    }
  }

  void load_carried(const LstmPart& part) {
    const Range units = units_of(part);
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      for (int64_t j = units.begin; j < units.end; ++j) carried_[row * width() + j] = grad_h_[row * sizes_.hidden + j];
    }
  }

  void store_carried(const LstmPart& part) {
    const Range units = units_of(part);
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      for (int64_t j = units.begin; j < units.end; ++j) grad_h_[row * sizes_.hidden + j] = carried_[row * width() + j];
    }
  }

  void gate_gradients(int64_t t, const LstmPart& part) {
    const int64_t hidden = sizes_.hidden;
    const Range units = units_of(part);
    const T* c_before = t == 0 ? c0_ : cells_ + (t - 1) * sizes_.batch * hidden;
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      const int64_t here = t * sizes_.batch + row;
      const T* acts = activations_ + here * 4 * hidden;
      T* grads = grad_gates_ + here * 4 * hidden;
      for (int64_t j = units.begin; j < units.end; j += kLanes<T>) {
        const int n = units.end - j < kLanes<T> ? static_cast<int>(units.end - j) : kLanes<T>;
        const Vec<T> input = load(acts + j, n), forget = load(acts + hidden + j, n);
        const Vec<T> cell = load(acts + 2 * hidden + j, n), output = load(acts + 3 * hidden + j, n);
        const Vec<T> tanh_c = tanh<T>(load(cells_ + here * hidden + j, n));
        Vec<T> grad_h = load(carried_ + row * width() + j);
        if (grad_out_ != nullptr) grad_h += load(grad_out_ + here * hidden + j, n);
        const Vec<T> grad_c = load(grad_c_ + row * hidden + j, n) + grad_h * output * (T{1} - tanh_c * tanh_c);
        store(grads + j, grad_c * cell * input * (T{1} - input), n);
        store(grads + hidden + j, grad_c * load(c_before + row * hidden + j, n) * forget * (T{1} - forget), n);
        store(grads + 2 * hidden + j, grad_c * input * (T{1} - cell * cell), n);
        store(grads + 3 * hidden + j, grad_h * tanh_c * output * (T{1} - output), n);
        store(grad_c_ + row * hidden + j, grad_c * forget, n);
      }
    }
  }

  // carried_ = grad_gates[t] W for this thread's rows and columns.
  void carry(int64_t t, const LstmPart& part) {
    const int64_t hidden = sizes_.hidden, rows = part.rows.end - part.rows.begin;
    const T* grads = grad_gates_ + (t * sizes_.batch + part.rows.begin) * 4 * hidden;
    for (int64_t panel = part.blocks.begin; panel < part.blocks.end; ++panel) {
      const T* weights = packed_ + panel * kPanel<T> * 4 * hidden;
      T* to = carried_ + part.rows.begin * width() + panel * kPanel<T>;
      for (int64_t k = 0; k < 4 * hidden; k += kDepthBlock) {
        const int64_t depth = 4 * hidden - k < kDepthBlock ? 4 * hidden - k : kDepthBlock;
        multiply<T>(rows, kPanel<T>, depth, {grads + k, 4 * hidden, 1}, weights + k * kPanel<T>, kPanel<T>, to, width(),
                    k > 0);
      }
    }
  }

  const T* activations_;
  T* grad_gates_;
  const T* weight_hh_;
  const T* c0_;
  const T* cells_;
  const T* grad_out_;
  T* grad_h_;
  T* grad_c_;
  LstmSizes sizes_;
  int64_t panels_;
  T* packed_ = nullptr;
  T* carried_ = nullptr;  // [B, width()]: the gradient of h that the later step hands to this one
};

}  // namespace

void lstm_backward_float32(const LstmBackward& arguments) { LstmBackwardPass<float>(arguments).run(); }

void lstm_backward_float64(const LstmBackward& arguments) { LstmBackwardPass<double>(arguments).run(); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
