#include "cpu/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace wordkiln::cpu {

Memory Memory::unset(size_t bytes) {
  constexpr size_t kPage = size_t{2} << 20;
  Memory memory;
  if (bytes == 0) return memory;
  void* data = nullptr;
  if (bytes > SIZE_MAX - kPage) throw std::bad_alloc();
  const size_t alignment = bytes < kPage ? 64 : kPage;
  if (posix_memalign(&data, alignment, bytes) != 0) throw std::bad_alloc();
  memory.data_.reset(data);
  memory.bytes_ = bytes;
#ifdef MADV_HUGEPAGE
  // Whole ones only: the rest of the last would be memory that nobody uses, 96 MB of SmolLM2's 540 in float32. A hint:
  // refused, the pages are merely small.
  if (alignment == kPage) madvise(data, bytes / kPage * kPage, MADV_HUGEPAGE);
#endif
  return memory;
}

Memory::Memory(size_t bytes) : Memory(unset(bytes)) {
  if (bytes > 0) std::memset(data(), 0, bytes);
}

}  // namespace wordkiln::cpu
