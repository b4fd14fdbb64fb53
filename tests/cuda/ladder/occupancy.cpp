// NVIDIA's own arithmetic of occupancy (cuda_occupancy.h), without a device or a driver. Reads lines of
// "capability registers static_shared dynamic_shared threads" and writes blocks a multiprocessor for each.
#include <cuda_occupancy.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <cuda/devices>

namespace {

// What a multiprocessor has, as NVIDIA's CCCL knows it.
cudaOccDeviceProp properties_of(int capability) {
  const cuda::arch_traits_t traits = cuda::arch_traits_for(cuda::compute_capability{capability});
  cudaDeviceProp p = {};
  p.major = capability / 10;
  p.minor = capability % 10;
  p.maxThreadsPerBlock = traits.max_threads_per_block;
  p.maxThreadsPerMultiProcessor = traits.max_threads_per_multiprocessor;
  p.regsPerBlock = traits.max_registers_per_block;
  p.regsPerMultiprocessor = traits.max_registers_per_multiprocessor;
  p.warpSize = traits.warp_size;
  p.sharedMemPerBlock = traits.max_shared_memory_per_block;
  p.sharedMemPerMultiprocessor = traits.max_shared_memory_per_multiprocessor;
  p.reservedSharedMemPerBlock = traits.reserved_shared_memory_per_block;
  p.sharedMemPerBlockOptin = traits.max_shared_memory_per_block_optin;
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
    kernel.maxDynamicSharedSizeBytes = device.sharedMemPerBlockOptin - fixed;
    const cudaOccDeviceState state;
    cudaOccResult result = {};
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, dynamic) !=
        CUDA_OCC_SUCCESS) {
      return 1;
    }
    std::printf("%d\n", result.activeBlocksPerMultiprocessor);
  }
}
