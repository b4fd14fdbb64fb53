// NVIDIA's own arithmetic of occupancy (cuda_occupancy.h), without a device or a driver. Reads lines of
// "capability registers static_shared dynamic_shared threads" and writes blocks a multiprocessor for each.
#include <cuda_occupancy.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <map>

namespace {

struct Multiprocessor {
  int threads, shared_kib;
};

// CUDA programming guide, "Compute Capabilities": resident threads and shared memory of a multiprocessor.
const std::map<int, Multiprocessor> kMultiprocessors = {
    {80, {2048, 164}}, {90, {2048, 228}}, {100, {2048, 228}}, {120, {1536, 100}}};

cudaOccDeviceProp properties_of(int capability) {
  const Multiprocessor m = kMultiprocessors.at(capability);
  cudaDeviceProp p = {};
  p.major = capability / 10;
  p.minor = capability % 10;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsPerMultiProcessor = m.threads;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.sharedMemPerBlock = 48 * 1024;
  p.sharedMemPerMultiprocessor = static_cast<size_t>(m.shared_kib) * 1024;
  p.reservedSharedMemPerBlock = 1024;
  p.sharedMemPerBlockOptin = p.sharedMemPerMultiprocessor - p.reservedSharedMemPerBlock;
  p.multiProcessorCount = 1;
  return cudaOccDeviceProp(p);
}

}  // namespace

int main() {
  int capability, registers, threads;
  size_t fixed, dynamic;
  while (std::scanf("%d %d %zu %zu %d", &capability, &registers, &fixed, &dynamic, &threads) == 5) {
    const cudaOccDeviceProp device = properties_of(capability);
    cudaOccFuncAttributes kernel;
    std::memset(&kernel, 0, sizeof kernel);
    kernel.maxThreadsPerBlock = threads;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = fixed;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = device.sharedMemPerMultiprocessor - 1024 - fixed;
    const cudaOccDeviceState state;
    cudaOccResult result = {};
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, dynamic) !=
        CUDA_OCC_SUCCESS) {
      return 1;
    }
    std::printf("%d\n", result.activeBlocksPerMultiprocessor);
  }
}
