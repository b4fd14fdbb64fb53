// What a decoder's pass gives for the tokens that it was asked for: logits, or log-probabilities.
#pragma once

#include "cpu/kernels/decoder_products.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

template <bool kAmx>
class DecoderOutput {
 public:
  DecoderOutput(const DecoderView& view, const DecoderRun& run, DecoderProducts<kAmx>& products)
      : view_(view), run_(run), products_(products) {}

  // Takes the memory that the threads have in common.
  void take_shared(Parts& parts, int threads) {
    target_logits_ = parts.template take<float>(run_.count);
    highest_ = parts.template take<float>(run_.count * threads);
    totals_ = parts.template take<double>(run_.count * threads);
  }

  // x: [N, hidden], what the layers have made of the tokens.
  void run(Team& team, const float* x) {
    const auto wanted = [this, x](int64_t i) { return x + run_.wanted[i] * view_.shape.hidden; };
    const LinearRows rows = products_.prepare(team, run_.count, view_.shape.hidden, &view_.norm, wanted);
    if (run_.logits == nullptr) return score(team, rows);
    products_.for_my_parts(team, run_.count, vectors_of(view_.shape.vocab), 1, [&](const ProductPart& part) {
      const int64_t columns = part.columns_of(view_.shape.vocab);
      products_.multiply(team, view_.head, rows, part, run_.logits + part.first, view_.shape.vocab, columns, false);
      leave_out_unused(part, run_.logits + part.first, view_.shape.vocab, columns);
    });
  }

 private:
  // -inf where an id is no token, in a part of the logits [rows, columns]. Returns how many of its ids are none.
  int64_t leave_out_unused(const ProductPart& part, float* out, int64_t out_row, int64_t columns) const {
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
    products_.for_my_vectors(team, run_.count, vectors_of(view_.shape.vocab), 1, [&](const ProductPart& part) {
      const int64_t first = part.first, columns = part.columns_of(view_.shape.vocab);
      products_.multiply(team, view_.head, rows, part, team.panel, kPanelWidth, columns, false);
      const bool empty = leave_out_unused(part, team.panel, kPanelWidth, columns) == columns;
      for (int64_t i = 0; i < run_.count; ++i) {
        const float* logits = team.panel + i * kPanelWidth;
        const int64_t target = run_.targets[i] - first;
        if (target >= 0 && target < columns) target_logits_[i] = logits[target];
        if (!empty) add_to_total(logits, columns, highest[i], totals[i]);
      }
    });
    products_.meet(team);
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
  const DecoderRun& run_;
  DecoderProducts<kAmx>& products_;
  float *target_logits_, *highest_;
  double* totals_;
};

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
