// One pass of a decoder over new tokens. One team of threads runs all of it: a step of a small model has some two
// hundred products of a few microseconds each, and starting a team for each would cost as much. The outputs of a
// product are cut over the threads, which meet behind each one. With few tokens each thread norms all rows for itself,
// which costs less than meeting once more.
#include "cpu/kernels/decoder_attention.h"
#include "cpu/kernels/decoder_output.h"
#include "cpu/kernels/decoder_products.h"
#include "cpu/kernels/kernels.h"
#include "cpu/workspace.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

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
        products_(view, run),
        output_(view, run, products_),
        attention_(shape_, run),
        single_(!run.prompt && has_single_tokens(run) && attention_.parts() == 1) {
    lay_out(nullptr, threads);
  }

  // output_ knows where products_ is.
  DecoderPass(const DecoderPass&) = delete;
  DecoderPass& operator=(const DecoderPass&) = delete;

  int64_t bytes() const { return bytes_; }

  // Gives out the memory: `bytes` of it.
  void lay_out(char* memory, int threads) {
    const int64_t half = view_.frequencies == nullptr ? 0 : shape_.head_size / 2;
    Parts parts(memory);
    row_of_ = parts.template take<int64_t>(tokens_);
    cos_ = parts.template take<float>(tokens_ * half);
    sin_ = parts.template take<float>(tokens_ * half);
    x_ = parts.template take<float>(tokens_ * shape_.hidden);
    qkv_ = parts.template take<float>(tokens_ * qkv_size_);
    attended_ = parts.template take<float>(tokens_ * q_size_);
    mlp_ = parts.template take<float>(tokens_ * shape_.intermediate);
    products_.take_shared(parts);
    output_.take_shared(parts, threads);
    parts_ = parts.template take<float>(attention_.shared());
    shared_ = parts.used();
    Team team = {};
    take_own(parts, team);
    private_ = parts.used() - shared_;
    memory_ = memory;
    bytes_ = shared_ + private_ * threads;
    if (memory != nullptr) products_.clear_taken();
  }

  void run(int thread, int threads) {
    Parts own(memory_ + shared_ + thread * private_);
    Team team = {thread, threads, 0, nullptr, nullptr, nullptr, nullptr};
    take_own(own, team);
    begin(team);
    for (int64_t layer = 0; layer < view_.count; ++layer) {
      products_.meet(team, view_.layers[layer].qkv, 1);
      attend(team, layer);
      products_.meet(team, view_.layers[layer].up, shape_.gated ? 2 : 1);
      feed_forward(team, view_.layers[layer]);
    }
    products_.meet(team, view_.head, 1);
    if (run_.count > 0) output_.run(team, x_);
  }

 private:
  static bool has_single_tokens(const DecoderRun& run) {
    for (int64_t row = 0; row <= run.rows; ++row) {
      if (run.offsets[row] != row) return false;
    }
    return true;
  }

  // Takes a thread's own memory.
  void take_own(Parts& parts, Team& team) const {
    products_.take_own(parts, team);
    team.scratch = parts.template take<float>(attention_.scratch());
  }

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

  void attend(Team& team, int64_t number) {
    const DecoderLayerView& layer = view_.layers[number];
    const auto x = [this](int64_t i) { return x_ + i * shape_.hidden; };
    for (int64_t item = team.thread; single_ && item < tokens_ * shape_.kv_heads; item += team.threads) {
      const int64_t row = item / shape_.kv_heads;
      attention_.ask_ahead(number, layer.window, row, run_.starts[row], item % shape_.kv_heads);
    }
    products_.product(team, layer.qkv, products_.prepare(team, tokens_, shape_.hidden, &layer.attention_norm, x), qkv_,
                      false);
    products_.meet(team, layer.output, 1);
    place_heads(team, layer, number);
    // A step's heads stay with their threads: nobody waits for another's.
    if (!single_) products_.meet(team);
    if (attention_.parts() == 1) {
      attention_.run(number, layer.window, qkv_, qkv_size_, attended_, team.scratch, products_.units_of(team));
    } else {
      attention_.run_parts(number, layer.window, qkv_, qkv_size_, team.scratch, parts_, team.thread, team.threads);
      products_.meet(team);
      const Range heads = split(tokens_ * shape_.kv_heads, team.thread, team.threads);
      attention_.join_heads(layer.window, heads, parts_, attended_, team.scratch);
    }
    products_.meet(team, layer.output, 1);
    const auto attended = [this](int64_t i) { return attended_ + i * q_size_; };
    products_.product(team, layer.output, products_.prepare(team, tokens_, q_size_, nullptr, attended), x_, true);
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
    const LinearRows rows = products_.prepare(team, tokens_, shape_.hidden, &layer.mlp_norm, x);
    shape_.gated ? multiply_gated(team, layer, rows) : multiply_plain(team, layer.up, rows);
    products_.meet(team, layer.down, 1);
    const auto mlp = [this](int64_t i) { return mlp_ + i * shape_.intermediate; };
    products_.product(team, layer.down, products_.prepare(team, tokens_, shape_.intermediate, nullptr, mlp), x_, true);
  }

  void multiply_plain(Team& team, const DecoderMatrix& up, const LinearRows& rows) {
    products_.for_my_parts(team, tokens_, vectors_of(up.outputs), 1, [&](const ProductPart& part) {
      const int64_t columns = part.columns_of(up.outputs);
      products_.multiply(team, up, rows, part, mlp_ + part.first, up.outputs, columns, false);
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
    products_.for_my_parts(team, tokens_, 2 * vectors_of(shape_.intermediate), 2, [&](const ProductPart& part) {
      const int64_t columns = part.columns();
      products_.multiply(team, up, rows, part, team.panel, kPanelWidth, columns, false);
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

  const DecoderView& view_;
  const DecoderShape& shape_;
  const DecoderRun& run_;
  int64_t tokens_, q_size_, qkv_size_;
  DecoderProducts<kAmx> products_;
  DecoderOutput<kAmx> output_;
  DecoderAttention<E, kAmx> attention_;
  bool single_;  // a step, each row with one token, whose key heads stay with one thread
  char* memory_ = nullptr;
  int64_t bytes_ = 0, shared_ = 0, private_ = 0;
  int64_t* row_of_;
  float *cos_, *sin_, *x_, *qkv_, *attended_, *mlp_, *parts_;
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
