// The table of one instruction set: this file is compiled once for each, with WORDKILN_ISA naming it.
#include "cpu/table.h"

#define WORDKILN_STRING_(name) #name
#define WORDKILN_STRING(name) WORDKILN_STRING_(name)

namespace wordkiln::cpu::WORDKILN_ISA {

extern const KernelTable table;
const KernelTable table = {
    .isa = WORDKILN_STRING(WORDKILN_ISA),
};

}  // namespace wordkiln::cpu::WORDKILN_ISA
