#include "wordkiln/threads.h"

#include <omp.h>

namespace wordkiln {

void set_num_threads(int threads) { omp_set_num_threads(threads); }

int get_num_threads() { return omp_get_max_threads(); }

}  // namespace wordkiln
