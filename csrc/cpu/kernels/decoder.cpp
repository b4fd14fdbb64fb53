// One pass of a decoder over new tokens. One team of threads runs all of it: a step of a small model has some two
// hundred products of a few microseconds each, and starting a team for each would cost as much. The outputs of a
// product are cut over the threads, which meet behind each one. With few tokens each thread norms all rows for itself,
// which costs less than meeting once more.
#include "cpu/kernels/decoder_attention.h"
#include "cpu/kernels/decoder_rows.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/packed_linear_amx.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kPrivateRows = 4;
// Rows of a prompt that are one unit of a product, and pieces of a layer's work that threads share by units: four
// products and attention.
constexpr int64_t kBlockRows = 256, kPieces = 5;
// What a thread asks for while it waits: a part of its second cache; so many lines between two looks at the others.
constexpr int64_t kMostAhead = 256 << 10;
constexpr int kLinesAtOnce = 8;

int64_t page_bytes(const DecoderShape& shape, LinearStorage storage, int64_t layers) {
  return layers * PageLayout(shape).layer_elements * (storage == LinearStorage::kFloat32 ? 4 : 2);
}

// E: what the cache stores. kAmx: whether there is a tile unit.
template <typename E, bool kAmx>
class DecoderPass {
 public:
  DecoderPass(const DecoderView& view, const DecoderRun& run, int threads)
      : view_(view),
        shape_(view.shape),
        run_(run),
        tokens_(run.offsets[run.rows]),
        q_size_(shape_.heads * shape_.head_size),
        qkv_size_(q_size_ + 2 * shape_.kv_heads * shape_.head_size),
        attention_(shape_, run),
        single_(!run.prompt && has_single_tokens(run) && attention_.parts() == 1) {
    lay_out(nullptr, threads);
  }

  int64_t bytes() const { return bytes_; }

  // Gives out the memory: `bytes` of it.
  void lay_out(char* memory, int threads) {
    const int64_t rows = most_rows(), hidden = shape_.hidden;
    const int64_t widest = largest_of(hidden, q_size_, shape_.intermediate);
    const int64_t half = view_.frequencies == nullptr ? 0 : shape_.head_size / 2;
    Parts parts(memory);
    row_of_ = parts.template take<int64_t>(tokens_);
    cos_ = parts.template take<float>(tokens_ * half);
    sin_ = parts.template take<float>(tokens_ * half);
    x_ = parts.template take<float>(tokens_ * hidden);
    qkv_ = parts.template take<float>(tokens_ * qkv_size_);
    attended_ = parts.template take<float>(tokens_ * q_size_);
    mlp_ = parts.template take<float>(tokens_ * shape_.intermediate);
    normed_ = parts.template take<float>(rows * hidden);
    halves_ = parts.template take<uint16_t>(tiled() ? tiled_rows(rows) * rounded_inputs(widest) : 0);
    taken_ = parts.template take<int64_t>(kPieces * view_.count + 1);
    target_logits_ = parts.template take<float>(run_.count);
    highest_ = parts.template take<float>(run_.count * threads);
    totals_ = parts.template take<double>(run_.count * threads);
    parts_ = parts.template take<float>(attention_.shared());
    const int64_t shared = parts.used();
    Parts own(memory);
    own.template take<char>(shared);
    own.template take<float>(kPrivateRows * hidden);
    own.template take<uint32_t>(tiled() ? tile_words(widest) : 0);
    own.template take<float>(rows * kPanelWidth);
    own.template take<float>(attention_.scratch());
    shared_ = shared;
    private_ = own.used() - shared;
    memory_ = memory;
    bytes_ = shared + private_ * threads;
    for (int64_t i = 0; memory != nullptr && i <= kPieces * view_.count; ++i) taken_[i] = 0;
  }

  void run(int thread, int threads) {
    Parts own(memory_);
    own.template take<char>(shared_ + thread * private_);
    const int64_t widest = largest_of(shape_.hidden, q_size_, shape_.intermediate);
    const int64_t rows = most_rows();
    Team team = {thread, threads, 0, nullptr, nullptr, nullptr, nullptr};
    team.normed = own.template take<float>(kPrivateRows * shape_.hidden);
    team.words = own.template take<uint32_t>(tiled() ? tile_words(widest) : 0);
    team.panel = own.template take<float>(rows * kPanelWidth);
    team.scratch = own.template take<float>(attention_.scratch());
    begin(team);
    for (int64_t layer = 0; layer < view_.count; ++layer) {
      meet(team, view_.layers[layer].qkv, 1);
      attend(team, layer);
      meet(team, view_.layers[layer].up, shape_.gated ? 2 : 1);
      feed_forward(team, view_.layers[layer]);
    }
    meet(team, view_.head, 1);
    if (run_.count > 0) finish(team);
  }

 private:
  // A thread and what only it writes to.
  struct Team {
    int thread, threads;
    int64_t piece;  // of the shared work: which comes next
    float* normed;
    uint32_t* words;  // of the tile unit
    float* panel;     // [rows, kPanelWidth]
    float* scratch;   // of attention
  };

  static bool has_single_tokens(const DecoderRun& run) {
    for (int64_t row = 0; row <= run.rows; ++row) {
      if (run.offsets[row] != row) return false;
    }
    return true;
  }

  static int64_t largest_of(int64_t a, int64_t b, int64_t c) { return a > b ? (a > c ? a : c) : (b > c ? b : c); }

  int64_t most_rows() const { return tokens_ > run_.count ? tokens_ : run_.count; }

  // Whether products are the tile unit's. That is not for the number of rows to decide: a row's result must not depend
  // on the others.
  bool tiled() const { return kAmx && run_.prompt; }

  // Embeddings, and the angles of rotary positions, as Hugging Face has them: float32 products.
  void begin(const Team& team) {
    const int64_t half = view_.frequencies == nullptr ? 0 : shape_.head_size / 2, hidden = shape_.hidden;
    for (int64_t row = 0; row < run_.rows; ++row) {
      for (int64_t t = run_.offsets[row]; t < run_.offsets[row + 1]; ++t) {
        if (t % team.threads != team.thread) continue;
        const int64_t position = run_.starts[row] + t - run_.offsets[row];
        row_of_[t] = row;
        float* x = x_ + t * hidden;
        unpack_output(view_.storage, view_.embedding.packed, hidden, run_.ids[t], x);
        for (int64_t j = 0; view_.positions && j < hidden; ++j) x[j] += view_.positions[position * hidden + j];
        for (int64_t i = 0; i < half; ++i) {
          const double angle = static_cast<double>(static_cast<float>(position) * view_.frequencies[i]);
          cos_[t * half + i] = static_cast<float>(__builtin_cos(angle));
          sin_[t * half + i] = static_cast<float>(__builtin_sin(angle));
        }
      }
    }
  }

  // Rows for a product: normed where there is a norm, rounded for the tile unit. row(i): the input of row i.
  template <typename Row>
  LinearRows prepare(const Team& team, int64_t count, int64_t inputs, const DecoderVector* norm, Row row) {
    if (norm == nullptr && !tiled()) return {row(0), inputs};
    const bool alone = count <= kPrivateRows && !tiled();
    float* normed = alone ? team.normed : normed_;
    const Range mine = alone ? Range{0, count} : split(count, team.thread, team.threads);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const float* x = row(i);
      if (norm != nullptr) {
        float* to = tiled() ? team.normed : normed + i * inputs;
        normalise(shape_, *norm, x, inputs, to);
        x = to;
      }
      if (tiled()) round_row(x, inputs, halves_, i);
    }
    if (!alone) barrier_.wait(team.threads);
    return {normed, inputs, halves_};
  }

  // A part of a product: some vectors of a panel for some rows.
  struct Part {
    int64_t panel, first;  // output
    Range vectors, rows;
    int64_t columns() const { return (vectors.end - vectors.begin) * kLanes<float>; }
    int64_t columns_of(int64_t outputs) const { return outputs - first < columns() ? outputs - first : columns(); }
  };

  // out[N, columns] (+)= rows times a part of a panel.
  void multiply(const Team& team, const DecoderMatrix& m, const LinearRows& rows, const Part& part, float* out,
                int64_t out_row, int64_t columns, bool accumulate) const {
    const PackedWeights w = {view_.storage, m.packed, m.outputs, m.inputs};
    const int64_t first = part.rows.begin, count = part.rows.end - first;
    if (tiled()) {
      multiply_panel_part_amx(w, rows, count, part.panel, part.vectors, team.words, out, out_row, columns, accumulate);
    } else {
      multiply_panel_part(w, {rows.values + first * rows.stride, rows.stride}, count, part.panel, part.vectors,
                          out + first * out_row, out_row, columns, accumulate);
    }
  }

  // What takes the units of the next piece of work one by one. In a prompt they go to whatever thread is free: on a
  // shared machine one of them is often slower, and what is cut in advance waits for it. No result depends on it.
  auto units_of(Team& team) {
    int64_t* taken = run_.prompt ? taken_ + team.piece++ : nullptr;
    return [taken, unit = int64_t{team.thread} - team.threads, threads = team.threads]() mutable {
      return taken ? __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED) : unit += threads;
    };
  }

  // body(part) for this thread's vectors out of `vectors`, which are cut evenly by multiples of `multiple`.
  template <typename Body>
  void for_my_vectors(const Team& team, int64_t count, int64_t vectors, int64_t multiple, Body body) const {
    const Range mine = split(vectors / multiple, team.thread, team.threads);
    for_panels({multiple * mine.begin, multiple * mine.end},
               [&](int64_t panel, Range part, int64_t first) { body(Part{panel, first, part, {0, count}}); });
  }

  // body(part) for this thread's parts of a product of `count` rows.
  template <typename Body>
  void for_my_parts(Team& team, int64_t count, int64_t vectors, int64_t multiple, Body body) {
    if (!run_.prompt) return for_my_vectors(team, count, vectors, multiple, body);
    // The tile unit takes pairs of vectors, and all rows: codes are widened once for them.
    const int64_t size = tiled() ? 2 : kTileVectors, chunks = (vectors + size - 1) / size;
    const int64_t blocks = tiled() ? 1 : (count + kBlockRows - 1) / kBlockRows;
    auto next = units_of(team);
    for (int64_t unit; (unit = next()) < chunks * blocks;) {
      const int64_t vector = unit / blocks * size, left = vectors - vector, first = vector % kTileVectors;
      body(Part{vector / kTileVectors,
                vector * kLanes<float>,
                {first, first + (left < size ? left : size)},
                split(count, unit % blocks, blocks)});
    }
  }

  // Meets the others behind one product; in a step it asks meanwhile for its part of the next one's weights, outputs by
  // `multiple` vectors.
  void meet(const Team& team, const DecoderMatrix& next, int64_t multiple) {
    if (run_.prompt) return barrier_.wait(team.threads);
    const Range mine = split(vectors_of(next.outputs) / multiple, team.thread, team.threads);
    const int64_t panel = panel_bytes(view_.storage, next.inputs);
    const char* at = next.packed + mine.begin * multiple / kTileVectors * panel;
    const int64_t bytes = (mine.end - mine.begin) * multiple * panel / kTileVectors;
    const char* const end = at + (bytes < kMostAhead ? bytes : kMostAhead);
    barrier_.wait(team.threads, [&at, end] {
      if (at >= end) return false;
      for (int line = 0; line < kLinesAtOnce; ++line, at += 64) __builtin_prefetch(at, 0, 2);
      return true;
    });
  }

  // out[N, outputs] (+)= rows times m, and its bias.
  void product(Team& team, const DecoderMatrix& m, const LinearRows& rows, float* out, bool accumulate) {
    for_my_parts(team, tokens_, vectors_of(m.outputs), 1, [&](const Part& part) {
      const int64_t columns = part.columns_of(m.outputs);
      multiply(team, m, rows, part, out + part.first, m.outputs, columns, accumulate);
      for (int64_t i = part.rows.begin; m.bias && i < part.rows.end; ++i) {
        float* to = out + i * m.outputs + part.first;
        for_vectors<float>(0, columns, [&](int64_t j, int n) {
          store(to + j, load(to + j, n) + load(m.bias + part.first + j, n), n);
        });
      }
    });
  }

  void attend(Team& team, int64_t number) {
    const DecoderLayerView& layer = view_.layers[number];
    const auto x = [this](int64_t i) { return x_ + i * shape_.hidden; };
    for (int64_t item = team.thread; single_ && item < tokens_ * shape_.kv_heads; item += team.threads) {
      const int64_t row = item / shape_.kv_heads;
      attention_.ask_ahead(number, layer.window, row, run_.starts[row], item % shape_.kv_heads);
    }
    product(team, layer.qkv, prepare(team, tokens_, shape_.hidden, &layer.attention_norm, x), qkv_, false);
    meet(team, layer.output, 1);
    place_heads(team, layer, number);
    // A step's heads stay with their threads: nobody waits for another's.
    if (!single_) barrier_.wait(team.threads);
    if (attention_.parts() == 1) {
      attention_.run(number, layer.window, qkv_, qkv_size_, attended_, team.scratch, units_of(team));
    } else {
      attention_.run_parts(number, layer.window, qkv_, qkv_size_, team.scratch, parts_, team.thread, team.threads);
      barrier_.wait(team.threads);
      const Range heads = split(tokens_ * shape_.kv_heads, team.thread, team.threads);
      attention_.join_heads(layer.window, heads, parts_, attended_, team.scratch);
    }
    meet(team, layer.output, 1);
    const auto attended = [this](int64_t i) { return attended_ + i * q_size_; };
    product(team, layer.output, prepare(team, tokens_, q_size_, nullptr, attended), x_, true);
  }

  // Queries and keys to their positions; keys and values into the cache. In a step a thread has the key heads that it
  // has in attention.
  void place_heads(const Team& team, const DecoderLayerView& layer, int64_t number) {
    const int64_t size = shape_.head_size, group = shape_.heads / shape_.kv_heads, count = tokens_ * shape_.kv_heads;
    const Range items = single_ ? Range{team.thread, count} : split(count, team.thread, team.threads);
    for (int64_t item = items.begin; item < items.end; item += single_ ? team.threads : 1) {
      const int64_t t = item / shape_.kv_heads, head = item % shape_.kv_heads;
      float *q = qkv_ + t * qkv_size_ + head * group * size, *k = qkv_ + t * qkv_size_ + q_size_ + head * size;
      for (int64_t i = 0; i < group; ++i) place(t, layer.q_norm, q + i * size);
      place(t, layer.k_norm, k);
      const int64_t row = row_of_[t], position = run_.starts[row] + t - run_.offsets[row];
      attention_.write(number, row, position, head, k, k + shape_.kv_heads * size);
    }
  }

  // Norms a head where the shape says so, and turns each pair (x[i], x[i + D / 2]) by its angle (Su et al. 2021,
  // RoFormer, section 3.2.2).
  void place(int64_t token, const float* norm, float* head) const {
    const int64_t half = shape_.head_size / 2;
    if (norm != nullptr) normalise(shape_, {norm, nullptr}, head, shape_.head_size, head);
    if (view_.frequencies == nullptr) return;
    const float *cos = cos_ + token * half, *sin = sin_ + token * half;
    for_vectors<float>(0, half, [&](int64_t i, int n) {
      const Vec<float> first = load(head + i, n), second = load(head + half + i, n);
      const Vec<float> c = load(cos + i, n), s = load(sin + i, n);
      store(head + i, first * c - second * s, n);
      store(head + half + i, second * c + first * s, n);
    });
  }

  void feed_forward(Team& team, const DecoderLayerView& layer) {
    const auto x = [this](int64_t i) { return x_ + i * shape_.hidden; };
    const LinearRows rows = prepare(team, tokens_, shape_.hidden, &layer.mlp_norm, x);
    shape_.gated ? multiply_gated(team, layer, rows) : multiply_plain(team, layer.up, rows);
    meet(team, layer.down, 1);
    const auto mlp = [this](int64_t i) { return mlp_ + i * shape_.intermediate; };
    product(team, layer.down, prepare(team, tokens_, shape_.intermediate, nullptr, mlp), x_, true);
  }

  void multiply_plain(Team& team, const DecoderMatrix& up, const LinearRows& rows) {
    for_my_parts(team, tokens_, vectors_of(up.outputs), 1, [&](const Part& part) {
      const int64_t columns = part.columns_of(up.outputs);
      multiply(team, up, rows, part, mlp_ + part.first, up.outputs, columns, false);
      for (int64_t i = part.rows.begin; i < part.rows.end; ++i) {
        float* to = mlp_ + i * up.outputs + part.first;
        for_vectors<float>(0, columns, [&](int64_t j, int n) {
          const Vec<float> x = load(to + j, n);
          store(to + j, activate(shape_.activation, up.bias ? x + load(up.bias + part.first + j, n) : x), n);
        });
      }
    });
  }

  // Pairs of vectors, of the gate and of up.
  void multiply_gated(Team& team, const DecoderLayerView& layer, const LinearRows& rows) {
    const DecoderMatrix& up = layer.up;
    for_my_parts(team, tokens_, 2 * vectors_of(shape_.intermediate), 2, [&](const Part& part) {
      const int64_t columns = part.columns();
      multiply(team, up, rows, part, team.panel, kPanelWidth, columns, false);
      for (int64_t i = part.rows.begin; i < part.rows.end; ++i) {
        const float* from = team.panel + i * kPanelWidth;
        for (int64_t j = 0; j < columns; j += 2 * kLanes<float>) {
          const int64_t unit = (part.first + j) / 2, left = shape_.intermediate - unit;
          const int n = left < kLanes<float> ? static_cast<int>(left) : kLanes<float>;
          Vec<float> gate = load(from + j), value = load(from + j + kLanes<float>);
          if (layer.gate_bias) gate += load(layer.gate_bias + unit, n);
          if (up.bias) value += load(up.bias + unit, n);
          store(mlp_ + i * shape_.intermediate + unit, activate(shape_.activation, gate) * value, n);
        }
      }
    });
  }

  void finish(Team& team) {
    const auto x = [this](int64_t i) { return x_ + run_.wanted[i] * shape_.hidden; };
    const LinearRows rows = prepare(team, run_.count, shape_.hidden, &view_.norm, x);
    if (run_.logits == nullptr) return score(team, rows);
    for_my_parts(team, run_.count, vectors_of(shape_.vocab), 1, [&](const Part& part) {
      const int64_t columns = part.columns_of(shape_.vocab);
      multiply(team, view_.head, rows, part, run_.logits + part.first, shape_.vocab, columns, false);
      leave_out_unused(part, run_.logits + part.first, shape_.vocab, columns);
    });
  }

  // -inf where an id is no token, in a part of the logits [rows, columns]. Returns how many of its ids are none.
  int64_t leave_out_unused(const Part& part, float* out, int64_t out_row, int64_t columns) const {
    int64_t begin = 0, end = view_.unused_count;
    while (begin < end) {
      const int64_t middle = (begin + end) / 2;
      (view_.unused[middle] < part.first ? begin : end) = view_.unused[middle] < part.first ? middle + 1 : middle;
    }
    for (; end < view_.unused_count && view_.unused[end] < part.first + columns; ++end) {
      float* at = out + view_.unused[end] - part.first;
      for (int64_t i = part.rows.begin; i < part.rows.end; ++i) at[i * out_row] = -__builtin_inff();
    }
    return end - begin;
  }

  // log softmax at the targets: each thread sums over its part of the vocabulary.
  void score(const Team& team, const LinearRows& rows) {
    float* highest = highest_ + team.thread * run_.count;
    double* totals = totals_ + team.thread * run_.count;
    for (int64_t i = 0; i < run_.count; ++i) {
      highest[i] = -__builtin_inff();
      totals[i] = 0;
    }
    // Not by whoever is free: in what order a thread adds would be left to the moment.
    for_my_vectors(team, run_.count, vectors_of(shape_.vocab), 1, [&](const Part& part) {
      const int64_t first = part.first, columns = part.columns_of(shape_.vocab);
      multiply(team, view_.head, rows, part, team.panel, kPanelWidth, columns, false);
      const bool empty = leave_out_unused(part, team.panel, kPanelWidth, columns) == columns;
      for (int64_t i = 0; i < run_.count; ++i) {
        const float* logits = team.panel + i * kPanelWidth;
        const int64_t target = run_.targets[i] - first;
        if (target >= 0 && target < columns) target_logits_[i] = logits[target];
        if (!empty) add_to_total(logits, columns, highest[i], totals[i]);
      }
    });
    barrier_.wait(team.threads);
    for (int64_t i = team.thread; i < run_.count; i += team.threads) {
      float most = -__builtin_inff();
      double total = 0;
      for (int thread = 0; thread < team.threads; ++thread) {
        const float part = highest_[thread * run_.count + i];
        most = part > most ? part : most;
      }
      for (int thread = 0; thread < team.threads; ++thread) {
        const int64_t at = thread * run_.count + i;
        if (!(totals_[at] <= 0)) total += totals_[at] * __builtin_exp(static_cast<double>(highest_[at] - most));
      }
      run_.log_probabilities[i] =
          static_cast<float>(static_cast<double>(target_logits_[i]) - static_cast<double>(most) - __builtin_log(total));
    }
  }

  const DecoderView& view_;
  const DecoderShape& shape_;
  const DecoderRun& run_;
  int64_t tokens_, q_size_, qkv_size_;
  DecoderAttention<E, kAmx> attention_;
  bool single_;  // a step, each row with one token, whose key heads stay with one thread
  SpinBarrier barrier_;
  char* memory_ = nullptr;
  int64_t bytes_ = 0, shared_ = 0, private_ = 0;
  int64_t* row_of_;
  float *cos_, *sin_, *x_, *qkv_, *attended_, *mlp_, *normed_, *target_logits_, *highest_, *parts_;
  uint16_t* halves_;
  double* totals_;
  int64_t* taken_;  // [pieces]: units of the shared work that threads have taken
};

template <typename E, bool kAmx>
void run_pass(const DecoderView& view, const DecoderRun& run) {
  const double tokens = static_cast<double>(run.offsets[run.rows]);
  double weights = static_cast<double>(run.count) * static_cast<double>(view.head.outputs * view.head.inputs);
  for (int64_t i = 0; i < view.count; ++i) {
    const DecoderLayerView& layer = view.layers[i];
    for (const DecoderMatrix* m : {&layer.qkv, &layer.output, &layer.up, &layer.down}) {
      weights += tokens * static_cast<double>(m->outputs * m->inputs);
    }
  }
  const int threads = threads_for(weights / static_cast<double>(view.count + 1));
  DecoderPass<E, kAmx> pass(view, run, threads);
  const Workspace workspace(static_cast<size_t>(pass.bytes()));
  pass.lay_out(static_cast<char*>(workspace.data()), threads);
  parallel_threads(threads, [&](int thread, int team) { pass.run(thread, team); });
}

template <bool kAmx>
void run(const DecoderView& view, const DecoderRun& arguments) {
  if (arguments.offsets[arguments.rows] == 0) return;
  if (view.storage == LinearStorage::kFloat32) return run_pass<float, false>(view, arguments);
  run_pass<Bfloat16, kAmx>(view, arguments);
}

}  // namespace

const DecoderKernels decoder_kernels = {
    kLanes<float>, kPanelWidth, decoder_packed_bytes, decoder_pack, decoder_first_infinite, page_bytes, run<false>};
#if defined(__AMX_TILE__)
const DecoderKernels decoder_kernels_amx = {
    kLanes<float>, kPanelWidth, decoder_packed_bytes, decoder_pack, decoder_first_infinite, page_bytes, run<true>};
#endif

}  // namespace wordkiln::cpu::WORDKILN_ISA
