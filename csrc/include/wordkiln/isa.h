// Which of the compiled instruction sets the kernels run on.
#pragma once

#include <string>
#include <vector>

namespace wordkiln {

// The instruction sets of this build that this machine can run, slowest first.
std::vector<std::string> available_isas();

// The one in use: the fastest available, or what the environment variable WORDKILN_ISA names.
// Throws std::invalid_argument when that variable names one that is unknown or that this machine lacks.
std::string current_isa();

}  // namespace wordkiln
