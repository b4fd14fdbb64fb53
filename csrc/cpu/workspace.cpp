#include "cpu/workspace.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace wordkiln::cpu {
namespace {

constexpr size_t kPage = size_t{2} << 20;
// What a thread may hold on to between calls; a larger block goes back to the system at once.
constexpr size_t kKeep = size_t{64} << 20;

struct Arena {
  void* data = nullptr;
  size_t bytes = 0;

  void release() {
    std::free(data);
    data = nullptr;
    bytes = 0;
  }
  ~Arena() { release(); }
};

thread_local Arena arena;

}  // namespace

Workspace::Workspace(size_t bytes) {
  if (bytes > arena.bytes) {
    if (bytes > SIZE_MAX - kPage) throw std::bad_alloc();
    arena.release();
    const size_t rounded = (bytes + kPage - 1) / kPage * kPage;
    arena.data = std::aligned_alloc(kPage, rounded);
    if (arena.data == nullptr) throw std::bad_alloc();
    arena.bytes = rounded;
#ifdef MADV_HUGEPAGE
    madvise(arena.data, rounded, MADV_HUGEPAGE);  // a hint: refused, the pages are merely small
#endif
  }
  data_ = arena.data;
}

void* Workspace::data() const { return data_; }

Workspace::~Workspace() {
  if (arena.bytes > kKeep) arena.release();
}

}  // namespace wordkiln::cpu
