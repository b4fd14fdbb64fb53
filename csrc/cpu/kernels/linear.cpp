// The standalone product with packed weights. The outputs are cut over the threads by whole vectors.
#include "wordkiln/linear.h"

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/packed_linear.h"

namespace wordkiln::cpu::WORDKILN_ISA {
namespace {

inline int64_t panels(const LinearSizes& sizes) { return (sizes.outputs + kPanelWidth - 1) / kPanelWidth; }

}  // namespace

size_t linear_packed_bytes(LinearStorage storage, const LinearSizes& sizes) {
  return static_cast<size_t>(panels(sizes) * panel_bytes(storage, sizes.inputs));
}

void linear_pack(LinearStorage storage, const LinearSizes& sizes, const float* weight, void* packed) {
  const int64_t inputs = sizes.inputs, count = panels(sizes);
  const double work = static_cast<double>(count * kPanelWidth) * static_cast<double>(inputs);
  parallel_threads(threads_for(work), [=](int thread, int threads) {
    const Range mine = split(count, thread, threads);
    for (int64_t p = mine.begin; p < mine.end; ++p) {
      const auto rows = [=](int64_t vector) {
        const int64_t output = p * kPanelWidth + vector * kLanes<float>;
        return some_rows({weight, WeightEncoding::kFloat32}, inputs, output, sizes.outputs);
      };
      pack_panel(storage, inputs, rows, static_cast<char*>(packed) + p * panel_bytes(storage, inputs));
    }
  });
}

void linear_run(const LinearRun& a) {
  if (a.rows == 0) return;
  const int64_t inputs = a.sizes.inputs, outputs = a.sizes.outputs;
  const LinearRows rows = {a.x, inputs};
  const PackedWeights weights = {a.storage, static_cast<const char*>(a.packed), outputs, inputs};
  const double work = static_cast<double>(a.rows) * static_cast<double>(outputs) * static_cast<double>(inputs);
  parallel_threads(threads_for(work), [&](int thread, int threads) {
    for_panels(split(vectors_of(outputs), thread, threads), [&](int64_t panel, Range vectors, int64_t first) {
      const int64_t wide = (vectors.end - vectors.begin) * kLanes<float>;
      const int64_t columns = outputs - first < wide ? outputs - first : wide;
      multiply_panel_part(weights, rows, a.rows, panel, vectors, a.out + first, outputs, columns, false);
      for (int64_t i = 0; i < a.rows; ++i) {
        float* out = a.out + i * outputs + first;
        for (int64_t j = 0; j < columns; ++j) {
          out[j] = (inputs > 0 ? out[j] : 0.0f) + (a.bias ? a.bias[first + j] : 0.0f);
        }
      }
    });
  });
}

void linear_unpack(LinearStorage storage, const LinearSizes& sizes, const void* packed, const int64_t* outputs,
                   int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    unpack_output(storage, static_cast<const char*>(packed), sizes.inputs, outputs[i], out + i * sizes.inputs);
  }
}

}  // namespace wordkiln::cpu::WORDKILN_ISA
