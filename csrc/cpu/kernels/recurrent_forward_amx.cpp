// Products of a step on the tile unit, in bfloat16 with sums in float32. weight_hh is packed once a call as right tiles
// [vector of units][gate][H / 32]; the state h lies in left tiles, rounded, that of this step and of the last one.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/recurrent_forward.h"
#include "cpu/kernels/recurrent_tiles.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <typename Cell>
class TileProducts {
 public:
  typedef Bfloat16 Stored;
  static constexpr int64_t kUnits = kTileUnits;
  static constexpr bool kHasState = Cell::kHasHiddenNew;

  explicit TileProducts(const RecurrentForward& a)
      : a_(a),
        h0_(static_cast<const Bfloat16*>(a.h0)),
        hidden_(a.sizes.hidden),
        vectors_((a.sizes.hidden + kTileSide - 1) / kTileSide),
        depth_(tile_depth(a.sizes.hidden)),
        rows_(tile_rows(a.sizes.batch) * kTileSide),
        states_{nullptr, tile_rows(a.sizes.batch), depth_} {}

  int64_t blocks() const { return (hidden_ + kUnits - 1) / kUnits; }

  int64_t bytes() const {
    return weight_bytes() + states_.elements() * 2 + rows_ * (product_row() + (kHasState ? hidden_ : 0)) * 4;
  }

  void take(char* memory) {
    packed_ = take_array<Bfloat16>(memory, weight_bytes() / 2);
    states_.data = take_array<Bfloat16>(memory, states_.elements());
    products_ = take_array<float>(memory, rows_ * product_row());
    if constexpr (kHasState) state_ = take_array<float>(memory, rows_ * hidden_);
    states_.clear();
    for (int64_t row = 0; row < a_.sizes.batch; ++row) {
      const State state = state_of(-1, row);
      for_vectors<float>(0, hidden_,
                         [&](int64_t unit, int n) { state.put(unit, n, load(h0_ + row * hidden_ + unit, n)); });
    }
  }

  RecurrentPart part(int thread, int threads) const {
    return tile_part(a_.sizes.batch, blocks(), weight_bytes(), thread, threads);
  }

  void pack(int64_t block) {
    const Bfloat16* weight = static_cast<const Bfloat16*>(a_.weight_hh);
    for (int64_t vector = block * 2; vector < block * 2 + 2 && vector < vectors_; ++vector) {
      const int64_t unit = vector * kTileSide, left = hidden_ - unit;
      for (int64_t g = 0; g < kGates; ++g) {
        pack_columns({weight + (g * hidden_ + unit) * hidden_, hidden_, left < kTileSide ? left : kTileSide, hidden_},
                     depth_ * kTileInputs, packed_ + (vector * kGates + g) * depth_ * kTileElements);
      }
    }
  }

  void multiply(int64_t t, const RecurrentPart& part) {
    const int64_t begin = part.blocks.begin * 2, end = part.blocks.end * 2 < vectors_ ? part.blocks.end * 2 : vectors_;
    const TileShape shape;
    multiply_tiles(tile_rows(part.rows.end - part.rows.begin), (end - begin) * kGates, depth_,
                   states_.from_row(t - 1, part.rows.begin),
                   whole_tiles(packed_ + begin * kGates * depth_ * kTileElements, 1, depth_),
                   sums_of_rows(products_ + part.rows.begin * product_row() + begin * kWidth, product_row()), false);
  }

  float* at(int64_t row) const { return products_ + row * product_row(); }

  const float* h_before(int64_t, int64_t row) const { return shifted(state_, row * hidden_); }

  struct State {
    Bfloat16* tiles;
    float* wide;

    WORDKILN_INLINE void put(int64_t unit, int n, Vec<float> h) const {
      store(tiles + offset_in_tiles(static_cast<uint64_t>(unit)), h);
      if constexpr (kHasState) store(wide + unit, h, n);
    }
  };

  State state_of(int64_t t, int64_t row) const { return {states_.row(t, row), shifted(state_, row * hidden_)}; }

 private:
  static constexpr int kGates = Cell::kGates;
  static constexpr int64_t kWidth = kGates * kTileSide;

  int64_t weight_bytes() const { return vectors_ * kGates * depth_ * kTileElements * 2; }

  int64_t product_row() const { return vectors_ * kWidth + kTileSide; }

  const RecurrentForward& a_;
  const Bfloat16* h0_;
  int64_t hidden_, vectors_, depth_, rows_;
  StepTiles states_;
  Bfloat16* packed_ = nullptr;
  float* products_ = nullptr;  // [B, product_row()]
  float* state_ = nullptr;     // [B, H] what a GRU goes on from, not rounded
};

}  // namespace

void recurrent_forward_tiles(const RecurrentForward& arguments) { run_forward<TileProducts, Bfloat16>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
