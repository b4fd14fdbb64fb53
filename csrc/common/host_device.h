// For functions that run on the host and, compiled by nvcc, on a GPU.
#pragma once

#if defined(__CUDACC__)
#define WORDKILN_HOST_DEVICE __host__ __device__
#else
#define WORDKILN_HOST_DEVICE
#endif
