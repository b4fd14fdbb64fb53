// What the two attention passes share: block sizes, who sees what, and rows and keys packed for the products.
#pragma once

#include "cpu/kernels/gemm.h"
#include "cpu/kernels/parallel.h"
#include "wordkiln/attention.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

constexpr int64_t kKeyBlock = 64;    // keys of a tile of scores; a multiple of every tile's width
constexpr int64_t kQueryBlock = 48;  // queries that share a block of keys while it lies in L1; a multiple of kTileRows

inline int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

inline int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// A head size in elements of padded rows.
template <typename T>
int64_t padded(int64_t head_size) {
  return round_up(head_size, kLanes<T>);
}

// How many of its first keys a query sees.
struct Visibility {
  int64_t queries, length;  // length: keys that this row of the batch has
  bool causal;

  Visibility(const AttentionSizes& sizes, const int64_t* key_lengths, bool is_causal, int64_t row)
      : queries(sizes.queries), length(key_lengths == nullptr ? sizes.keys : key_lengths[row]), causal(is_causal) {}

  int64_t keys(int64_t query) const { return causal ? clamp(query + 1 + length - queries, 0, length) : length; }
};

// to[row][0..padded) = scale * from[row][0..head_size), 0 in the padding.
template <typename T>
void copy_rows(const T* from, int64_t from_row, int64_t rows, int64_t head_size, T scale, T* to, int64_t to_row) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t d = 0; d < to_row; d += kLanes<T>) {
      const int64_t left = head_size - d;
      const int lanes = left < kLanes<T> ? static_cast<int>(left) : kLanes<T>;
      store(to + i * to_row + d, scale * load(from + i * from_row + d, lanes));
    }
  }
}

// Keys as the right side of a product with queries: [key / kKeyBlock][head_size][kKeyBlock], 0 beyond the last key.
template <typename T>
void pack_keys(const T* from, int64_t from_row, int64_t keys, int64_t head_size, T* to) {
  for (int64_t key = 0; key < round_up(keys, kKeyBlock); key += kLanes<T>) {
    T* block = to + key / kKeyBlock * kKeyBlock * head_size + key % kKeyBlock;
    const int64_t rows = keys - key > 0 ? keys - key : 0;
    transpose(from + key * from_row, from_row, rows, head_size, block, kKeyBlock);
  }
}

}  // namespace
}  // namespace wordkiln::cpu::WORDKILN_ISA
