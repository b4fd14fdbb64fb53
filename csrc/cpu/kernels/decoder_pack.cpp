// A decoder's matrices into panels, straight from the encoding that their file has.
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/packed_weights.h"

namespace wordkiln::cpu::WORDKILN_ISA {

int64_t decoder_packed_bytes(LinearStorage storage, int64_t outputs, int64_t inputs) {
  return (outputs + kPanelWidth - 1) / kPanelWidth * panel_bytes(storage, inputs);
}

bool decoder_pack(LinearStorage storage, int64_t outputs, int64_t inputs, const EncodedMatrix& weight,
                  const EncodedMatrix& gate, char* packed) {
  // With a gate the packed outputs are the gate's vectors and those of `weight` in turns.
  const int64_t vectors = vectors_of(outputs) * (gate.data == nullptr ? 1 : 2);
  const int64_t count = (vectors + kTileVectors - 1) / kTileVectors;
  bool fits = true;
  parallel_threads(threads_for(static_cast<double>(outputs) * static_cast<double>(inputs)),
                   [=, &fits](int thread, int threads) {
                     const Range mine = split(count, thread, threads);
                     for (int64_t p = mine.begin; p < mine.end; ++p) {
                       const auto rows = [=](int64_t v) {
                         const int64_t vector = p * kTileVectors + v;
                         if (gate.data == nullptr) return some_rows(weight, inputs, vector * kLanes<float>, outputs);
                         return some_rows(vector % 2 == 0 ? gate : weight, inputs, vector / 2 * kLanes<float>, outputs);
                       };
                       if (!pack_panel(storage, inputs, rows, packed + p * panel_bytes(storage, inputs))) {
                         __atomic_store_n(&fits, false, __ATOMIC_RELAXED);
                       }
                     }
                   });
  return fits;
}

int64_t decoder_first_infinite(int64_t outputs, int64_t inputs, const EncodedMatrix& weight) {
  const char* rows = static_cast<const char*>(weight.data);
  for (int64_t i = 0; rows != nullptr && i < outputs; ++i) {
    float values[kLinearGroup];
    for (int64_t k = 0; k < inputs; k += kLinearGroup) {
      const int64_t count = inputs - k < kLinearGroup ? inputs - k : kLinearGroup;
      widen_row(weight.encoding, rows + i * encoded_bytes(weight.encoding, inputs), k, count, values);
      for (int64_t j = 0; j < count; ++j) {
        if (!__builtin_isfinite(values[j])) return i * inputs + k + j;
      }
    }
  }
  return -1;
}

}  // namespace wordkiln::cpu::WORDKILN_ISA
