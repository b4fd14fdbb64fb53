// Products of vectors. weight_hh is packed once a call as [panel of columns][GH][columns of a tile].
#include "cpu/kernels/recurrent_backward.h"

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/recurrent_product.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename Cell>
class VectorProducts {
 public:
  typedef typename Cell::T T;
  typedef T Stored;
  static constexpr int kVectors = 2;
  static constexpr int64_t kUnits = kVectors * kLanes<T>;  // of a panel

  explicit VectorProducts(const RecurrentBackward& a)
      : a_(a),
        weight_(static_cast<const T*>(a.weight_hh)),
        grad_gates_(static_cast<const T*>(a.grad_gates)),
        grad_hidden_new_(static_cast<const T*>(a.grad_hidden_new)),
        hidden_(a.sizes.hidden),
        panels_((a.sizes.hidden + kUnits - 1) / kUnits) {}

  int64_t blocks() const { return panels_; }

  int64_t bytes() const { return weight_bytes() + a_.sizes.batch * width() * static_cast<int64_t>(sizeof(T)); }

  void take(char* memory) {
    packed_ = reinterpret_cast<T*>(memory);
    carried_ = packed_ + width() * kGates * hidden_;
  }

  RecurrentPart part(int thread, int threads) const {
    return recurrent_part(a_.sizes.batch, panels_, weight_bytes(), thread, threads);
  }

  void pack(int64_t panel) {
    const int64_t unit = panel * kUnits;
    const T* from = weight_ + unit;
    T* to = packed_ + unit * kGates * hidden_;
    for (int64_t k = 0; k < kGates * hidden_; ++k, from += hidden_, to += kUnits) {
      for (int j = 0; j < kVectors; ++j) {
        const int64_t left = hidden_ - unit - j * kLanes<T>;
        const int lanes = left <= 0 ? 0 : left < kLanes<T> ? static_cast<int>(left) : kLanes<T>;
        store(to + j * kLanes<T>, load(from + j * kLanes<T>, lanes));
      }
    }
  }

  // The gradients are read where the caller has them.
  struct Gradients {
    void put(int64_t, const Vec<T> (&)[Cell::kGrads]) const {}
  };

  Gradients gradients_of(int64_t, int64_t) const { return {}; }

  // carried += the gradient of W_hh h times W_hh, for this thread's rows and columns.
  void multiply(int64_t t, const RecurrentPart& part) {
    const int64_t row = kGates * hidden_, own = Cell::kHasHiddenNew ? kGates - 1 : kGates;
    const int64_t begin = t * a_.sizes.batch + part.rows.begin, count = part.rows.end - part.rows.begin;
    for (int64_t panel = part.blocks.begin; panel < part.blocks.end; ++panel) {
      const T* weights = packed_ + panel * kUnits * row;
      T* to = carried(part.rows.begin, panel * kUnits);
      add_product<T, kVectors>(count, own * hidden_, grad_gates_ + begin * row, row, weights, to, width(), true,
                               part.is_far);
      if constexpr (Cell::kHasHiddenNew) {
        add_product<T, kVectors>(count, hidden_, grad_hidden_new_ + begin * hidden_, hidden_,
                                 weights + own * hidden_ * kUnits, to, width(), true, part.is_far);
      }
    }
  }

  T* carried(int64_t row, int64_t unit) const { return carried_ + row * width() + unit; }

 private:
  static constexpr int kGates = Cell::kGates;

  int64_t weight_bytes() const { return width() * kGates * hidden_ * static_cast<int64_t>(sizeof(T)); }

  int64_t width() const { return panels_ * kUnits; }

  const RecurrentBackward& a_;
  const T* weight_;
  const T* grad_gates_;
  const T* grad_hidden_new_;
  int64_t hidden_, panels_;
  T* packed_ = nullptr;
  T* carried_ = nullptr;  // [B, width()]
};

}  // namespace

void recurrent_backward_float32(const RecurrentBackward& arguments) { run_backward<VectorProducts, float>(arguments); }

void recurrent_backward_float64(const RecurrentBackward& arguments) { run_backward<VectorProducts, double>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
