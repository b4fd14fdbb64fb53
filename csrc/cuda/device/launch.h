// How the host starts kernels: on a stream, reading every return code, never waiting. One name, two bodies, as in
// cuda/device/device.h.
#pragma once

#include <cstddef>

#include "wordkiln/cuda/runtime.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>

#include <string>
#else
#include <cstring>
#include <string>

#include "simt/executor.h"
#endif

namespace wordkiln::device {

enum class Launch {
  kIndependent,
  kCooperative,  // all blocks run together and may sync_grid; at most resident_blocks()
};

#if defined(__CUDACC__)

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next call of somebody else would report it
  throw cuda::Error(std::string(what) + ": " + cudaGetErrorString(status));
}

template <typename Kernel>
void allow_shared(Kernel* kernel, size_t bytes) {
  if (bytes <= 48 * 1024) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of a kernel");
}

// Runs `kernel` with `arguments` on `blocks` blocks of `threads` threads.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, int threads, size_t shared_bytes, cuda::Stream stream,
            Launch mode, const Arguments&... arguments) {
  allow_shared(kernel, shared_bytes);
  cudaLaunchAttribute cooperative = {};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = mode == Launch::kCooperative;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cooperative;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), "launch of a kernel");
}

// Multiprocessors of the current device.
inline int processors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  return count;
}

// The most blocks of a cooperative launch on the current device; 0 where one needs more shared memory than it has.
template <typename... Parameters>
int resident_blocks(void (*kernel)(Parameters...), int threads, size_t shared_bytes) {
  int device = 0, most_bytes = 0, blocks = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory");
  if (shared_bytes > static_cast<size_t>(most_bytes)) return 0;
  allow_shared(kernel, shared_bytes);
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes), "occupancy");
  return processors() * blocks;
}

// Fills global memory with zeros.
inline void zero(void* global, size_t bytes, cuda::Stream stream) {
  check(cudaMemsetAsync(global, 0, bytes, static_cast<cudaStream_t>(stream)), "zeros");
}

#else

// As they lie in a GPU's parameter memory.
template <typename... Parameters>
std::string parameter_bytes(const Parameters&... parameters) {
  std::string bytes;
  const auto append = [&bytes](const void* p, size_t size, size_t alignment) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    bytes.append(static_cast<const char*>(p), size);
  };
  (append(&parameters, sizeof parameters, alignof(Parameters)), ...);
  return bytes;
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, int threads, size_t shared_bytes, cuda::Stream, Launch mode,
            const Arguments&... arguments) {
  if (simt::runs_elsewhere()) {
    return simt::run_elsewhere(reinterpret_cast<const void*>(kernel), blocks, threads, shared_bytes,
                               mode == Launch::kCooperative, parameter_bytes<Parameters...>(arguments...));
  }
  simt::run(blocks, threads, shared_bytes, mode == Launch::kCooperative, [&] { kernel(Parameters(arguments)...); });
}

template <typename... Parameters>
int resident_blocks(void (*)(Parameters...), int, size_t) {
  return simt::schedule().resident_blocks;
}

inline int processors() { return 2; }

inline void zero(void* global, size_t bytes, cuda::Stream) { std::memset(global, 0, bytes); }

#endif

}  // namespace wordkiln::device
