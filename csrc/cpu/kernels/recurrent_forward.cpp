// Products of vectors. weight_hh is packed once a call as [block of kLanes units][part][H][gates of the part][kLanes].
#include "cpu/kernels/recurrent_forward.h"

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/recurrent_product.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename Cell>
class VectorProducts {
 public:
  typedef typename Cell::T T;
  typedef T Stored;
  static constexpr int64_t kUnits = kLanes<T>;

  explicit VectorProducts(const RecurrentForward& a)
      : a_(a),
        h0_(static_cast<const T*>(a.h0)),
        out_(static_cast<const T*>(a.out)),
        hidden_(a.sizes.hidden),
        blocks_((a.sizes.hidden + kUnits - 1) / kUnits) {}

  int64_t blocks() const { return blocks_; }

  int64_t bytes() const { return weight_bytes() + blocks_ * a_.sizes.batch * kWidth * static_cast<int64_t>(sizeof(T)); }

  void take(char* memory) {
    packed_ = reinterpret_cast<T*>(memory);
    products_ = packed_ + blocks_ * block_size();
  }

  RecurrentPart part(int thread, int threads) const {
    return recurrent_part(a_.sizes.batch, blocks_, weight_bytes(), thread, threads);
  }

  void pack(int64_t block) {
    const int64_t unit = block * kUnits;
    const T* weight = static_cast<const T*>(a_.weight_hh);
    for (int g = 0; g < kGates; ++g) {
      T* to = packed_ + block * block_size() + g / kVectors * (hidden_ * kVectors * kLanes<T>);
      transpose(weight + (g * hidden_ + unit) * hidden_, hidden_, hidden_ - unit, hidden_,
                to + g % kVectors * kLanes<T>, kVectors * kLanes<T>);
    }
  }

  void multiply(int64_t t, const RecurrentPart& part) {
    const Range rows = part.rows;
    const T* previous = h_before(t, rows.begin);
    for (int64_t block = part.blocks.begin; block < part.blocks.end; ++block) {
      const T* weights = packed_ + block * block_size();
      T* to = products_ + (rows.begin * blocks_ + block) * kWidth;
      for (int i = 0; i < kParts; ++i, weights += block_size() / kParts, to += kVectors * kLanes<T>) {
        add_product<T, kVectors>(rows.end - rows.begin, hidden_, previous, hidden_, weights, to, blocks_ * kWidth,
                                 false, part.is_far);
      }
    }
  }

  T* at(int64_t row) const { return products_ + row * blocks_ * kWidth; }

  const T* h_before(int64_t t, int64_t row) const {
    return t == 0 ? h0_ + row * hidden_ : out_ + ((t - 1) * a_.sizes.batch + row) * hidden_;
  }

  // The outputs are the state.
  struct State {
    void put(int64_t, int, Vec<T>) const {}
  };

  State state_of(int64_t, int64_t) const { return {}; }

 private:
  static constexpr int kGates = Cell::kGates, kVectors = Cell::kVectors, kParts = kGates / kVectors;
  static constexpr int64_t kWidth = kGates * kLanes<T>;

  int64_t weight_bytes() const { return blocks_ * block_size() * static_cast<int64_t>(sizeof(T)); }

  int64_t block_size() const { return hidden_ * kWidth; }

  const RecurrentForward& a_;
  const T* h0_;
  const T* out_;
  int64_t hidden_, blocks_;
  T* packed_ = nullptr;
  T* products_ = nullptr;  // [B, blocks, G, kLanes]
};

}  // namespace

void recurrent_forward_float32(const RecurrentForward& arguments) { run_forward<VectorProducts, float>(arguments); }

void recurrent_forward_float64(const RecurrentForward& arguments) { run_forward<VectorProducts, double>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
