// Scratch memory of a kernel call, kept by the calling thread for its next call: a fresh map would page-fault anew.
#pragma once

#include <cstddef>

namespace wordkiln::cpu {

// Aligned to 2 MiB; contents undefined. One at a time per thread. Throws std::bad_alloc.
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* data() const;  // not inline: kernel files may share no inline function

 private:
  void* data_;
};

}  // namespace wordkiln::cpu
