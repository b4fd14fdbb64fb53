#include "cpu/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace wordkiln::cpu {

Memory Memory::unset(size_t bytes) {
  constexpr size_t kPage = size_t{2} << 20;
  Memory memory;
  if (bytes == 0) return memory;
  if (bytes > SIZE_MAX - kPage) throw std::bad_alloc();
  const size_t alignment = bytes < kPage ? 64 : kPage, rounded = (bytes + alignment - 1) / alignment * alignment;
  memory.data_.reset(std::aligned_alloc(alignment, rounded));
  if (memory.data_ == nullptr) throw std::bad_alloc();
  memory.bytes_ = bytes;
#ifdef MADV_HUGEPAGE
  if (alignment == kPage)
    madvise(memory.data(), rounded, MADV_HUGEPAGE);  // a hint: refused, the pages are merely small
#endif
  return memory;
}

Memory::Memory(size_t bytes) : Memory(unset(bytes)) {
  if (bytes > 0) std::memset(data(), 0, bytes);
}

}  // namespace wordkiln::cpu
