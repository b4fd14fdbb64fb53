#include <cstdlib>
#include <stdexcept>

#include "cpu/table.h"
#include "wordkiln/isa.h"

namespace wordkiln {
namespace cpu {

namespace baseline {
extern const KernelTable table;
}
#ifdef WORDKILN_X86
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512bf16 {
extern const KernelTable table;
}
#endif

namespace {

// Slowest first. Each set is what its -march in CMakeLists.txt lets the compiler use.
std::vector<const KernelTable*> available_tables() {
  std::vector<const KernelTable*> tables = {&baseline::table};
#ifdef WORDKILN_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v3")) tables.push_back(&avx2::table);
  if (__builtin_cpu_supports("x86-64-v4")) {
    tables.push_back(&avx512::table);
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
      tables.push_back(&avx512bf16::table);
    }
  }
#endif
  return tables;
}

const KernelTable& choose_table() {
  const std::vector<const KernelTable*> tables = available_tables();
  const char* forced = std::getenv("WORDKILN_ISA");
  if (forced == nullptr || *forced == '\0') return *tables.back();
  std::string names;
  for (const KernelTable* table : tables) {
    if (std::string(forced) == table->isa) return *table;
    names += std::string(names.empty() ? "" : ", ") + table->isa;
  }
  throw std::invalid_argument("WORDKILN_ISA=" + std::string(forced) +
                              " is not one of what this machine can run: " + names);
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable& chosen = choose_table();
  return chosen;
}

}  // namespace cpu

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const cpu::KernelTable* table : cpu::available_tables()) names.emplace_back(table->isa);
  return names;
}

std::string current_isa() { return cpu::kernels().isa; }

}  // namespace wordkiln
