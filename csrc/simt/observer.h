// Who hears what the threads of a launch do with memory and when they meet. The build that looks for races has one
// (simt/races.cpp), others none.
#pragma once

#include <cstddef>

#include "simt/executor.h"

namespace wordkiln::simt {

class Observer {
 public:
  virtual ~Observer() = default;
  virtual void launch(int resident_blocks, int threads) = 0;
  virtual void start_block(int slot, const void* shared, std::size_t bytes) = 0;
  // The threads `first` to `first` + `count` of this thread's block see what each of them did before; or all blocks.
  virtual void join(int first, int count) = 0;
  virtual void join_grid() = 0;
  virtual void read(const void* p, std::size_t bytes, Site site) = 0;
  // `from` is null where zeros are written.
  virtual void copy_starts(const void* to, const void* from, Site site) = 0;
  virtual void copy_lands(const void* to) = 0;
};

Observer*& observer();

// Of the thread that runs; none does in the host's code.
bool runs_kernel();
int block_slot();
bool on_own_stack(const void* p);

}  // namespace wordkiln::simt
