// A function that can be left in the middle and gone on with later: one GPU thread of the CPU executor.
#pragma once

#include <cstddef>

namespace wordkiln::simt {

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // The next resume() calls `entry`, which must end with leave(true).
  void start(void (*entry)());

  // Runs the fiber until it leaves. Called from outside of all fibers.
  void resume();

  // Back to who resumed it. Called from inside; `for_good`: the fiber is not resumed again.
  void leave(bool for_good = false);

  bool owns(const void* p) const {
    const std::byte* at = static_cast<const std::byte*>(p);
    return at >= stack_ && at < stack_ + kStack;
  }

 private:
  static constexpr std::size_t kStack = 256 * 1024;  // sanitizers' frames are large; untouched pages cost nothing

  std::byte* stack_ = nullptr;
  void* context_ = nullptr;  // where it stands: a stack pointer, or a ucontext_t
  void* caller_ = nullptr;   // the same of who resumed it
  void* fake_stack_ = nullptr;
  void* caller_fake_stack_ = nullptr;
  const void* caller_stack_ = nullptr;
  std::size_t caller_stack_size_ = 0;

  static void begin();
  void (*entry_)() = nullptr;
};

}  // namespace wordkiln::simt
