// The functions that are compiled once per instruction set. dispatch.cpp hands out the table in use.
#pragma once

namespace wordkiln::cpu {

struct KernelTable {
  const char* isa;
};

// Throws std::invalid_argument as current_isa() does (isa.h).
const KernelTable& kernels();

}  // namespace wordkiln::cpu
