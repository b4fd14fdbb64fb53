// Kernels with one fault each, to see that the executor finds it.
#pragma once

#include <string>

namespace wordkiln::simt {

// Runs the kernel of that name: what is wrong is thrown as Error. Unknown names throw std::out_of_range.
void run_fault(const std::string& name);

}  // namespace wordkiln::simt
