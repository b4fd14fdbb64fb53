#include "cpu/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace wordkiln::cpu {

Memory::Memory(size_t bytes) : bytes_(bytes) {
  constexpr size_t kPage = size_t{2} << 20;
  if (bytes == 0) return;
  if (bytes > SIZE_MAX - kPage) throw std::bad_alloc();
  const size_t alignment = bytes < kPage ? 64 : kPage, rounded = (bytes + alignment - 1) / alignment * alignment;
  data_.reset(std::aligned_alloc(alignment, rounded));
  if (data_ == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (alignment == kPage) madvise(data_.get(), rounded, MADV_HUGEPAGE);  // a hint: refused, the pages are merely small
#endif
  std::memset(data_.get(), 0, rounded);
}

}  // namespace wordkiln::cpu
