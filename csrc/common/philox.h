// Philox4x32-10: four random words from a counter of four and a key of two (Salmon, Moraes, Dror and Shaw 2011,
// "Parallel random numbers: as easy as 1, 2, 3"). A pure function: what it draws depends on no order and no thread.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace wordkiln {

// Word: uint32_t or a vector of them. multiply(word, constant, high): the low half of the 64-bit product, and its high.
template <typename Word, typename Multiply>
WORDKILN_HOST_DEVICE inline __attribute__((always_inline)) void philox4x32(Word (&counter)[4], uint64_t seed,
                                                                           Multiply multiply) {
  uint32_t first_key = static_cast<uint32_t>(seed), second_key = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    Word first_high, second_high;
    const Word first = multiply(counter[0], 0xD2511F53u, first_high);
    const Word second = multiply(counter[2], 0xCD9E8D57u, second_high);
    counter[0] = second_high ^ counter[1] ^ first_key;
    counter[1] = second;
    counter[2] = first_high ^ counter[3] ^ second_key;
    counter[3] = first;
    first_key += 0x9E3779B9u;
    second_key += 0xBB67AE85u;
  }
}

}  // namespace wordkiln
