// The recurrence packs weight_hh once as [block of kLanes units][H][gate][kLanes]: the four gates of a block end in
// registers together, and the nonlinearities are the epilogue of the product.
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lstm.h"
#include "cpu/kernels/math.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int kGateRows = kRegisters == 32 ? 6 : 3;  // times four gates: the accumulators

// One block of units in a few rows, at one time step; the pointers are to the first row and unit.
template <typename T>
struct LstmTile {
  const T* weights;   // [H][4][kLanes]
  const T* previous;  // [rows, H] from unit 0: the last step's h
  const T* c_before;
  T* gates;  // [rows, 4H]
  T* cells;
  T* out;
  int64_t hidden;
  int units;  // of the block that exist
};

template <typename T, int kRows>
void lstm_tile(const LstmTile<T>& tile) {
  const int64_t hidden = tile.hidden;
  const int units = tile.units;
  Vec<T> acc[kRows][4];
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) {
    WORDKILN_UNROLL
    for (int g = 0; g < 4; ++g) acc[i][g] = load(tile.gates + (4 * i + g) * hidden, units);
  }
  accumulate_tile<T, kRows, 4>(hidden, {tile.previous, hidden, 1}, tile.weights, 4 * kLanes<T>, acc);
  for (int i = 0; i < kRows; ++i) {
    const Vec<T> input = sigmoid<T>(acc[i][0]), forget = sigmoid<T>(acc[i][1]), cell = tanh<T>(acc[i][2]),
                 output = sigmoid<T>(acc[i][3]);
    const Vec<T> c = forget * load(tile.c_before + i * hidden, units) + input * cell;
    T* gates = tile.gates + 4 * i * hidden;
    store(gates, input, units);
    store(gates + hidden, forget, units);
    store(gates + 2 * hidden, cell, units);
    store(gates + 3 * hidden, output, units);
    store(tile.cells + i * hidden, c, units);
    store(tile.out + i * hidden, output * tanh<T>(c), units);
  }
}

template <typename T>
using LstmTileFunction = void (*)(const LstmTile<T>&);

template <typename T>
class LstmForwardPass {
 public:
  explicit LstmForwardPass(const LstmForward& a)
      : gates_(static_cast<T*>(a.gates)),
        weight_hh_(static_cast<const T*>(a.weight_hh)),
        h0_(static_cast<const T*>(a.h0)),
        c0_(static_cast<const T*>(a.c0)),
        out_(static_cast<T*>(a.out)),
        cells_(static_cast<T*>(a.cells)),
        sizes_(a.sizes),
        blocks_((a.sizes.hidden + kLanes<T> - 1) / kLanes<T>) {}

  void run() {
    const Workspace workspace(blocks_ * block_size() * sizeof(T));
    packed_ = static_cast<T*>(workspace.data());
    parallel_threads(lstm_threads(sizes_.batch, sizes_.hidden), [this](int thread, int threads) {
      const Range mine = split(blocks_, thread, threads);
      for (int64_t block = mine.begin; block < mine.end; ++block) pack(block);
      barrier();
      const LstmPart part = lstm_part(sizes_.batch, blocks_, thread, threads);
      for (int64_t t = 0; t < sizes_.steps; ++t) {
        for (int64_t block = part.blocks.begin; block < part.blocks.end; ++block) step(t, block, part.rows);
        if (part.shares_rows) barrier();
      }
    });
  }

 private:
  int64_t block_size() const { return sizes_.hidden * 4 * kLanes<T>; }

  void pack(int64_t block) {
    const int64_t unit = block * kLanes<T>, hidden = sizes_.hidden;
    for (int g = 0; g < 4; ++g) {
      transpose(weight_hh_ + (g * hidden + unit) * hidden, hidden, hidden - unit, hidden,
                packed_ + block * block_size() + g * kLanes<T>, 4 * kLanes<T>);
    }
  }

  void step(int64_t t, int64_t block, Range rows) {
    static constexpr LstmTileFunction<T> kTiles[] = {lstm_tile<T, 1>,
                                                     lstm_tile<T, 2>,
                                                     lstm_tile<T, 3>,
                                                     lstm_tile<T, kGateRows - 2>,
                                                     lstm_tile<T, kGateRows - 1>,
                                                     lstm_tile<T, kGateRows>};
    const int64_t hidden = sizes_.hidden, unit = block * kLanes<T>, left = hidden - unit;
    const int64_t count = rows.end - rows.begin, groups = (count + kGateRows - 1) / kGateRows;
    const T* h_before = t == 0 ? h0_ : out_ + (t - 1) * sizes_.batch * hidden;
    const T* c_before = t == 0 ? c0_ : cells_ + (t - 1) * sizes_.batch * hidden;
    for (int64_t group = 0; group < groups; ++group) {
      const Range part = split(count, group, groups);  // nearly equal: no group of a single row is left over
      const int64_t row = rows.begin + part.begin, here = t * sizes_.batch + row;
      kTiles[part.end - part.begin - 1]({
          .weights = packed_ + block * block_size(),
          .previous = h_before + row * hidden,
          .c_before = c_before + row * hidden + unit,
          .gates = gates_ + here * 4 * hidden + unit,
          .cells = cells_ + here * hidden + unit,
          .out = out_ + here * hidden + unit,
          .hidden = hidden,
          .units = left < kLanes<T> ? static_cast<int>(left) : kLanes<T>,
      });
    }
  }

  T* gates_;
  const T* weight_hh_;
  const T* h0_;
  const T* c0_;
  T* out_;
  T* cells_;
  LstmSizes sizes_;
  int64_t blocks_;
  T* packed_ = nullptr;
};

}  // namespace

void lstm_forward_float32(const LstmForward& arguments) { LstmForwardPass<float>(arguments).run(); }

void lstm_forward_float64(const LstmForward& arguments) { LstmForwardPass<double>(arguments).run(); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
