// The CPU executor says that it is one GPU of the least capability.
#include "wordkiln/cuda/runtime.h"

namespace wordkiln::cuda {

int device_count() { return 1; }

std::string why_no_device() { return {}; }

int capability(int) { return 80; }

}  // namespace wordkiln::cuda
