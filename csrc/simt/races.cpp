// Finds races: two accesses to the same memory, one of them a write, that no barrier orders. The kernels are compiled
// with -fsanitize=thread and calls that their accesses become, __tsan_read4(address) and the like, come here and not to
// libtsan, which knows nothing of a GPU's barriers.
//
// Each thread has a vector clock over its block (Flanagan and Freund 2009, FastTrack); barriers join them. Shuffles,
// ldmatrix and mma order nothing, as on a GPU. Threads of other blocks are ordered by grid barriers alone. Memory is
// told apart by pairs of bytes, the smallest that kernels use.
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <unordered_map>
#include <vector>

#include "simt/observer.h"

namespace wordkiln::simt {
namespace {

using Clock = uint32_t;
constexpr Clock kUnderWay = ~Clock{0};  // a copy that has not been waited for

struct Place {
  const void* code = nullptr;  // or else `site`
  Site site = {nullptr, 0};
};

struct Access {
  Clock clock = 0;  // 0: never
  int thread = 0, block = 0;
  unsigned phase = 0;  // grid barriers before it
  Place place;
};

struct Cell {
  Access write;
  std::vector<Access> reads;  // not ordered among each other
};

struct Block {
  uintptr_t shared = 0;
  std::size_t bytes = 0;
  std::vector<Cell> cells;
  std::vector<Clock> known;  // [thread, thread]: the latest clock of the second that the first has seen
};

// "file:line" of a return address, by addr2line; it is asked once, before the test fails.
std::string text_of(const Place& place) {
  if (place.code == nullptr) return std::string(place.site.file) + ":" + std::to_string(place.site.line);
  Dl_info module;
  if (dladdr(place.code, &module) == 0) return "unknown code";
  const auto offset = static_cast<const char*>(place.code) - static_cast<const char*>(module.dli_fbase) - 1;
  char command[1024], line[512] = "";
  std::snprintf(command, sizeof command, "addr2line -e '%s' 0x%zx", module.dli_fname, static_cast<std::size_t>(offset));
  std::FILE* pipe = popen(command, "r");
  if (pipe == nullptr || std::fgets(line, sizeof line, pipe) == nullptr) line[0] = 0;
  if (pipe != nullptr) pclose(pipe);
  return std::string(line).substr(0, std::string(line).find('\n'));
}

class Races : public Observer {
 public:
  void launch(int resident_blocks, int threads) override {
    threads_ = threads;
    phase_ = 1;
    global_.clear();
    blocks_.assign(static_cast<std::size_t>(resident_blocks), {});
  }

  void start_block(int slot, const void* shared, std::size_t bytes) override {
    const std::size_t n = static_cast<std::size_t>(threads_);
    Block& b = blocks_[static_cast<std::size_t>(slot)];
    b = {reinterpret_cast<uintptr_t>(shared), bytes, std::vector<Cell>(bytes / 2 + 1), std::vector<Clock>(n * n, 0)};
    for (std::size_t i = 0; i < n; ++i) b.known[i * n + i] = 1;
  }

  void join(int first, int count) override { join(blocks_[static_cast<std::size_t>(block_slot())], first, count); }

  void join_grid() override {
    for (Block& b : blocks_) join(b, 0, threads_);
    ++phase_;
  }

  void read(const void* p, std::size_t bytes, Site site) override { access(p, bytes, false, {nullptr, site}); }

  void copy_starts(const void* to, const void* from, Site site) override {
    if (from != nullptr) read(from, 16, site);
    access(to, 16, true, {nullptr, site});
    each_cell(to, 16, [](Cell& cell) { cell.write.clock = kUnderWay; });
  }

  void copy_lands(const void* to) override {
    const Clock now = own_clock();
    each_cell(to, 16, [now](Cell& cell) { cell.write.clock = now; });
  }

  void access(const void* p, std::size_t bytes, bool writes, Place place) {
    const Access own = {own_clock(), thread_index(), block_index(), phase_, place};
    each_cell(p, bytes, [&](Cell& cell) {
      if (!ordered(cell.write)) tell(p, own, writes, cell.write, true);
      if (!writes) {
        std::erase_if(cell.reads, [this](const Access& read) { return ordered(read); });
        cell.reads.push_back(own);
        return;
      }
      for (const Access& read : cell.reads) {
        if (!ordered(read)) tell(p, own, writes, read, false);
      }
      cell.reads.clear();
      cell.write = own;
    });
  }

 private:
  Block& block() { return blocks_[static_cast<std::size_t>(block_slot())]; }

  Clock& known(Block& b, int of, int by) {
    return b.known[static_cast<std::size_t>(by) * static_cast<std::size_t>(threads_) + static_cast<std::size_t>(of)];
  }

  Clock own_clock() { return known(block(), thread_index(), thread_index()); }

  void join(Block& b, int first, int count) {
    for (int of = 0; of < threads_; ++of) {
      Clock latest = 0;
      for (int i = first; i < first + count; ++i) latest = std::max(latest, known(b, of, i));
      for (int i = first; i < first + count; ++i) known(b, of, i) = latest;
    }
    for (int i = first; i < first + count; ++i) ++known(b, i, i);
  }

  // Whether what the running thread does now comes after it.
  bool ordered(const Access& before) {
    if (before.clock == 0) return true;
    if (before.clock == kUnderWay) return false;
    if (before.block != block_index()) return before.phase < phase_;
    return before.thread == thread_index() || before.clock <= known(block(), before.thread, thread_index());
  }

  template <typename Function>
  void each_cell(const void* p, std::size_t bytes, const Function& function) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
    Block& b = block();
    for (uintptr_t at = begin / 2; at <= (begin + bytes - 1) / 2; ++at) {
      const bool shared = at * 2 >= b.shared && at * 2 < b.shared + b.bytes;
      function(shared ? b.cells[at - b.shared / 2] : global_[at]);
    }
  }

  [[noreturn]] void tell(const void* p, const Access& own, bool own_writes, const Access& other, bool other_writes) {
    const uintptr_t offset = reinterpret_cast<uintptr_t>(p) - block().shared;
    const std::string where =
        offset < block().bytes ? "shared memory, byte " + std::to_string(offset) : "global memory";
    const auto who = [](const Access& a, bool writes) {
      return std::string(a.clock == kUnderWay ? "the copy under way"
                         : writes             ? "the write"
                                              : "the read") +
             " of thread " + std::to_string(a.thread) + " of block " + std::to_string(a.block) + " at " +
             text_of(a.place);
    };
    fail(("race on " + where + ": no barrier between " + who(other, other_writes) + " and " + who(own, own_writes))
             .c_str(),
         Site::here());
  }

  int threads_ = 0;
  unsigned phase_ = 1;
  std::vector<Block> blocks_;  // resident
  std::unordered_map<uintptr_t, Cell> global_;
};

Races races;

[[maybe_unused]] const bool installed = (observer() = &races) != nullptr;

void access(const void* p, std::size_t bytes, bool writes, const void* code) {
  if (!runs_kernel() || on_own_stack(p)) return;
  races.access(p, bytes, writes, {.code = code});
}

}  // namespace
}  // namespace wordkiln::simt

extern "C" {
#define WORDKILN_ACCESS(name, bytes, writes) \
  void name(void* p) { wordkiln::simt::access(p, bytes, writes, __builtin_return_address(0)); }
#define WORDKILN_ACCESSES(bytes)                              \
  WORDKILN_ACCESS(__tsan_read##bytes, bytes, false)           \
  WORDKILN_ACCESS(__tsan_write##bytes, bytes, true)           \
  WORDKILN_ACCESS(__tsan_volatile_read##bytes, bytes, false)  \
  WORDKILN_ACCESS(__tsan_volatile_write##bytes, bytes, true)  \
  WORDKILN_ACCESS(__tsan_unaligned_read##bytes, bytes, false) \
  WORDKILN_ACCESS(__tsan_unaligned_write##bytes, bytes, true)
WORDKILN_ACCESSES(1)
WORDKILN_ACCESSES(2)
WORDKILN_ACCESSES(4)
WORDKILN_ACCESSES(8)
WORDKILN_ACCESSES(16)
void __tsan_read_range(void* p, std::size_t n) { wordkiln::simt::access(p, n, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, std::size_t n) { wordkiln::simt::access(p, n, true, __builtin_return_address(0)); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
