// wordkiln._cuda: the GPU kernels. It loads without a driver; then device_count() is 0.
#include "bindings/cuda/register.h"

PYBIND11_MODULE(_cuda, m, pybind11::mod_gil_not_used()) {
  m.doc() = "Wordkiln's CUDA kernels. Callers pass device addresses, sizes and a stream; wordkiln.ops checks them.";
  wordkiln::bindings::register_cuda_runtime(m);
  wordkiln::bindings::register_cuda_attention(m);
  wordkiln::bindings::register_cuda_cross_entropy(m);
  wordkiln::bindings::register_cuda_recurrent(m);
  wordkiln::bindings::register_cuda_recurrent_cell(m);
}
