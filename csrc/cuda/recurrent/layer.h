// A pass over a layer: what is handed on to the first step, then the kernels that fit.
#pragma once

#include <type_traits>

#include "cuda/recurrent/kernels.h"
#include "cuda/recurrent/plain.h"

namespace wordkiln::cuda {

// What the first step reads: the first h, as the later ones are rounded.
template <typename Pass>
WORDKILN_KERNEL(kBlockThreads)
recurrent_start_kernel(const Pass pass, const Exchange<Pass> exchange) {
  const int64_t at = static_cast<int64_t>(device::block_index()) * kBlockThreads + device::thread_index();
  if (at >= static_cast<int64_t>(pass.shape.batch) * pass.shape.hidden) return;
  const int row = static_cast<int>(at / pass.shape.hidden), unit = static_cast<int>(at % pass.shape.hidden);
  exchange.row(pass.shape, 0, row)[unit] = device::from_float<typename Pass::Element>(pass.states[0][at]);
}

template <typename Pass>
void run_pass(const Pass& pass, void* workspace, Stream stream) {
  const Exchange<Pass> exchange(workspace);
  device::zero(workspace, static_cast<size_t>(Exchange<Pass>::bytes(pass.shape)), stream);
  if constexpr (Pass::kStartsFromH) {
    const int64_t blocks =
        (static_cast<int64_t>(pass.shape.batch) * pass.shape.hidden + kBlockThreads - 1) / kBlockThreads;
    device::launch(&recurrent_start_kernel<Pass>, static_cast<int>(blocks), kBlockThreads, 0, stream,
                   device::Launch::kIndependent, pass, exchange);
  }
  if constexpr (std::is_same_v<typename Pass::Element, float>) {
    launch_plain(pass, exchange, stream);
  } else if (!launch_persistent(pass, exchange, stream)) {
    launch_steps(pass, exchange, stream);
  }
}

template <typename T>
void run_forward(const LayerForward& a, void* workspace, Stream stream) {
  if (a.kind == Recurrence::kLstm) return run_pass(ForwardPass<T, LstmCell>(a), workspace, stream);
  run_pass(ForwardPass<T, GruCell>(a), workspace, stream);
}

template <typename T>
void run_backward(const LayerBackward& a, void* workspace, Stream stream) {
  if (a.kind == Recurrence::kLstm) return run_pass(BackwardPass<T, LstmCell>(a), workspace, stream);
  run_pass(BackwardPass<T, GruCell>(a), workspace, stream);
}

}  // namespace wordkiln::cuda
