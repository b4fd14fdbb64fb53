// The OpenMP pool that the kernels share with torch (one libgomp per process).
#pragma once

namespace wordkiln {

// threads >= 1, as for omp_set_num_threads.
void set_num_threads(int threads);
int get_num_threads();

}  // namespace wordkiln
