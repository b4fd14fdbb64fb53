// What all kernels on a GPU share: the stream they run on, and what goes wrong there.
#pragma once

#include <stdexcept>
#include <string>

namespace wordkiln::cuda {

using Stream = void*;  // a cudaStream_t

// What the CUDA runtime, or the CPU executor in tests, reports.
struct Error : std::runtime_error {
  using runtime_error::runtime_error;
};

// Of sixteen-bit floats kernels hold sums in float32.
enum class DType { kFloat32, kBfloat16, kFloat16 };

// How many GPUs there are; 0 where there is no driver.
int device_count();

// Why there is none, in the driver's words; empty where there is one.
std::string why_no_device();

// Compute capability of a device: 10 * major + minor.
int capability(int device);

}  // namespace wordkiln::cuda
