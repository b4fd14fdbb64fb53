// Products of a step on the tile unit, in bfloat16 with sums in float32. weight_hh is packed once a call as right tiles
// [block of units][gate][H / 32][2]; a step's gradients lie in left tiles, rounded.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/recurrent_backward.h"
#include "cpu/kernels/recurrent_tiles.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename Cell>
class TileProducts {
 public:
  typedef Bfloat16 Stored;
  static constexpr int64_t kUnits = kTileUnits;

  explicit TileProducts(const RecurrentBackward& a)
      : a_(a),
        weight_(static_cast<const Bfloat16*>(a.weight_hh)),
        hidden_(a.sizes.hidden),
        depth_(tile_depth(a.sizes.hidden)),
        grads_{nullptr, tile_rows(a.sizes.batch), kGates * depth_} {}

  int64_t blocks() const { return depth_; }

  int64_t bytes() const { return weight_bytes() + grads_.elements() * 2 + grads_.rows * kTileSide * carried_row() * 4; }

  void take(char* memory) {
    packed_ = take_array<Bfloat16>(memory, weight_bytes() / 2);
    grads_.data = take_array<Bfloat16>(memory, grads_.elements());
    carried_ = take_array<float>(memory, grads_.rows * kTileSide * carried_row());
    grads_.clear();
  }

  RecurrentPart part(int thread, int threads) const {
    return tile_part(a_.sizes.batch, blocks(), weight_bytes(), thread, threads);
  }

  void pack(int64_t block) {
    const int64_t unit = block * kUnits;
    for (int64_t g = 0; g < kGates; ++g) {
      pack_inputs({weight_ + g * hidden_ * hidden_ + unit, hidden_, hidden_, hidden_ - unit}, kUnits,
                  packed_ + (block * kGates + g) * depth_ * kPair);
    }
  }

  struct Gradients {
    Bfloat16* tiles;
    int64_t gate;  // elements between those of two gates

    // The GRU's last gate sees W_hh h through the reset gate.
    WORDKILN_INLINE void put(int64_t unit, const Vec<float> (&grads)[Cell::kGrads]) const {
      Bfloat16* to = tiles + offset_in_tiles(static_cast<uint64_t>(unit));
      WORDKILN_UNROLL
      for (int g = 0; g < kGates; ++g) store(to + g * gate, grads[g + 1 < kGates ? g : Cell::kGrads - 1]);
    }
  };

  Gradients gradients_of(int64_t t, int64_t row) const { return {grads_.row(t, row), depth_ * kTileElements}; }

  // carried += the gradient of W_hh h times W_hh, for this thread's rows and columns.
  void multiply(int64_t t, const RecurrentPart& part) {
    const TileShape shape;
    const int64_t rows = tile_rows(part.rows.end - part.rows.begin);
    for (int64_t block = part.blocks.begin; block < part.blocks.end; ++block) {
      multiply_columns<2>(rows, kGates * depth_, grads_.from_row(t, part.rows.begin),
                          whole_tiles(packed_ + block * kGates * depth_ * kPair, 2, 1),
                          sums_of_rows(carried(part.rows.begin, block * kUnits), carried_row()), true);
    }
  }

  float* carried(int64_t row, int64_t unit) const { return carried_ + row * carried_row() + unit; }

 private:
  static constexpr int kGates = Cell::kGates;
  static constexpr int64_t kPair = 2 * kTileElements;

  int64_t weight_bytes() const { return depth_ * kGates * depth_ * kPair * 2; }

  // No power of two: the rows of a tile would share a few sets of the cache.
  int64_t carried_row() const { return depth_ * kUnits + kTileSide; }

  const RecurrentBackward& a_;
  const Bfloat16* weight_;
  int64_t hidden_, depth_;
  StepTiles grads_;  // inputs: [G, depth_ * 32]
  Bfloat16* packed_ = nullptr;
  float* carried_ = nullptr;  // [B, carried_row()]
};

}  // namespace

void recurrent_backward_tiles(const RecurrentBackward& arguments) { run_backward<TileProducts, Bfloat16>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
