#ifdef WORDKILN_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
extern const KernelTable amx_table;
}  // namespace avx512bf16
#endif

namespace {

#ifdef WORDKILN_X86
// Whether there is a tile unit (CPUID leaf 7, EDX: 22 bfloat16, 24 tiles, 25 int8) and the system lets this process
// have it: Linux gives the tiles' large registers only to who asks.
bool tiles_allowed() {
#if defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kNeeded = 1u << 22 | 1u << 24 | 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return (d & kNeeded) == kNeeded && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

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
      if (tiles_allowed()) tables.push_back(&avx512bf16::amx_table);
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
