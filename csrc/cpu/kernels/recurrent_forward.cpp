// weight_hh is packed once a call as [block of kLanes units][H][gate][kLanes]: the gates of a block end in registers
// together, and the nonlinearities are the epilogue of the product.
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/recurrent.h"
#include "cpu/kernels/recurrent_cells.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

// Times the gates: the accumulators, three quarters of the registers.
template <typename Cell>
constexpr int kCellRows = Cell::kGates == 1 ? kRegisters / 2 : kRegisters * 3 / 4 / Cell::kGates;

// One block of units in a few rows, at one time step; pointers are those of the first row.
template <typename T>
struct ForwardTile {
  const T* weights;   // [H][G][kLanes]
  const T* previous;  // [rows, H] from unit 0: the last step's h
  ForwardRow<T> first;
  const int64_t* lengths;  // of the rows, or null
  int64_t t;
  int gates;

  WORDKILN_INLINE ForwardRow<T> row(int i) const {
    ForwardRow<T> r = first;
    const int64_t states = i * first.hidden;
    r.gates += states * gates;
    r.h_before += states;
    r.c_before = shifted(r.c_before, states);
    r.out += states;
    r.cells = shifted(r.cells, states);
    r.hidden_new = shifted(r.hidden_new, states);
    return r;
  }
};

// A row behind its length: outputs 0, the state stays.
template <typename T, typename Cell>
void stay(const ForwardRow<T>& row) {
  store(row.out, Vec<T>{}, row.units);
  if constexpr (Cell::kHasCells) store(row.cells, load(row.c_before, row.units), row.units);
}

template <typename T, typename Cell, int kRows>
void forward_tile(const ForwardTile<T>& tile) {
  constexpr int kGates = Cell::kGates;
  Vec<T> acc[kRows][kGates];
  WORDKILN_UNROLL
  for (int i = 0; i < kRows; ++i) Cell::start(tile.row(i), acc[i]);
  accumulate_tile<T, kRows, kGates>(tile.first.hidden, {tile.previous, tile.first.hidden, 1}, tile.weights,
                                    kGates * kLanes<T>, acc);
  for (int i = 0; i < kRows; ++i) {
    if (tile.lengths != nullptr && tile.t >= tile.lengths[i]) {
      stay<T, Cell>(tile.row(i));
    } else {
      Cell::finish(tile.row(i), acc[i]);
    }
  }
}

template <typename T>
using ForwardTileFunction = void (*)(const ForwardTile<T>&);

template <typename T, typename Cell, int... I>
ForwardTileFunction<T> forward_tile_of(int rows, Indices<I...>) {
  static constexpr ForwardTileFunction<T> kTiles[] = {forward_tile<T, Cell, I + 1>...};
  return kTiles[rows - 1];
}

template <typename T, typename Cell>
class ForwardPass {
 public:
  explicit ForwardPass(const RecurrentForward& a)
      : a_(a),
        gates_(static_cast<T*>(a.gates)),
        h0_(static_cast<const T*>(a.h0)),
        c0_(static_cast<const T*>(a.c0)),
        out_(static_cast<T*>(a.out)),
        cells_(static_cast<T*>(a.cells)),
        hidden_(a.sizes.hidden),
        blocks_((a.sizes.hidden + kLanes<T> - 1) / kLanes<T>) {}

  void run() {
    const Workspace workspace(blocks_ * block_size() * sizeof(T));
    packed_ = static_cast<T*>(workspace.data());
    parallel_threads(recurrent_threads(kGates, a_.sizes.batch, hidden_), [this](int thread, int threads) {
      const Range mine = split(blocks_, thread, threads);
      for (int64_t block = mine.begin; block < mine.end; ++block) pack(block);
      barrier();
      const RecurrentPart part = recurrent_part(a_.sizes.batch, blocks_, thread, threads);
      for (int64_t t = 0; t < a_.sizes.steps; ++t) {
        for (int64_t block = part.blocks.begin; block < part.blocks.end; ++block) step(t, block, part.rows);
        if (part.shares_rows) barrier();
      }
    });
  }

 private:
  static constexpr int kGates = Cell::kGates;

  int64_t block_size() const { return hidden_ * kGates * kLanes<T>; }

  void pack(int64_t block) {
    const int64_t unit = block * kLanes<T>;
    const T* weight = static_cast<const T*>(a_.weight_hh);
    for (int g = 0; g < kGates; ++g) {
      transpose(weight + (g * hidden_ + unit) * hidden_, hidden_, hidden_ - unit, hidden_,
                packed_ + block * block_size() + g * kLanes<T>, kGates * kLanes<T>);
    }
  }

  void step(int64_t t, int64_t block, Range rows) {
    const int64_t count = rows.end - rows.begin, groups = (count + kCellRows<Cell> - 1) / kCellRows<Cell>;
    for (int64_t group = 0; group < groups; ++group) {
      const Range part = split(count, group, groups);  // nearly equal: no group of a single row is left over
      const ForwardTile<T> tile = tile_at(t, block, rows.begin + part.begin);
      const int height = static_cast<int>(part.end - part.begin);
      forward_tile_of<T, Cell>(height, typename MakeIndices<kCellRows<Cell>>::Type{})(tile);
    }
  }

  ForwardTile<T> tile_at(int64_t t, int64_t block, int64_t row) const {
    const int64_t unit = block * kLanes<T>, left = hidden_ - unit;
    const int64_t state = row * hidden_, all = a_.sizes.batch * hidden_, here = t * all + state;
    const T* previous = (t == 0 ? h0_ : out_ + (t - 1) * all) + state;
    const T* c_before = t == 0 ? c0_ : shifted(cells_, a_.keep ? (t - 1) * all : 0);
    return {
        .weights = packed_ + block * block_size(),
        .previous = previous,
        .first =
            {
                .gates = gates_ + here * kGates + unit,
                .bias_new = shifted(static_cast<const T*>(a_.bias_new), unit),
                .h_before = previous + unit,
                .c_before = shifted(c_before, state + unit),
                .out = out_ + here + unit,
                .cells = shifted(cells_, (a_.keep ? here : state) + unit),
                .hidden_new = shifted(static_cast<T*>(a_.hidden_new), here + unit),
                .hidden = hidden_,
                .units = left < kLanes<T> ? static_cast<int>(left) : kLanes<T>,
                .keep = a_.keep,
            },
        .lengths = shifted(a_.lengths, row),
        .t = t,
        .gates = kGates,
    };
  }

  const RecurrentForward& a_;
  T* gates_;
  const T* h0_;
  const T* c0_;
  T* out_;
  T* cells_;
  int64_t hidden_, blocks_;
  T* packed_ = nullptr;
};

template <typename T>
void run(const RecurrentForward& a) {
  switch (a.kind) {
    case Recurrence::kLstm:
      return ForwardPass<T, LstmCell<T>>(a).run();
    case Recurrence::kGru:
      return ForwardPass<T, GruCell<T>>(a).run();
    case Recurrence::kTanh:
      return ForwardPass<T, PlainCell<T, false>>(a).run();
    case Recurrence::kRelu:
      return ForwardPass<T, PlainCell<T, true>>(a).run();
  }
}

}  // namespace

void recurrent_forward_float32(const RecurrentForward& arguments) { run<float>(arguments); }

void recurrent_forward_float64(const RecurrentForward& arguments) { run<double>(arguments); }

}  // namespace wordkiln::cpu::WORDKILN_ISA
