// Memory for weights, on huge pages where the system has them: a step runs through the whole of it.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace wordkiln::cpu {

class Memory {
 public:
  // Zeroed. Both throw std::bad_alloc.
  explicit Memory(size_t bytes);
  static Memory unset(size_t bytes);
  void* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  Memory() = default;

  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  size_t bytes_ = 0;
};

}  // namespace wordkiln::cpu
