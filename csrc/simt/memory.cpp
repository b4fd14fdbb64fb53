// A block's shared memory as its threads see it, and asynchronous copies to it.
#include <algorithm>
#include <cstring>

#include "simt/machine.h"

namespace wordkiln::simt {
namespace {

void land(const Copy& copy) {
  if (copy.from != nullptr) {
    std::memcpy(copy.to, copy.from, 16);
  } else {
    std::memset(copy.to, 0, 16);
  }
}

}  // namespace

bool in_shared(const void* p, std::size_t bytes) {
  const std::byte* begin = machine.self->block->shared;
  const std::byte* at = static_cast<const std::byte*>(p);
  return at >= begin && at + bytes <= begin + machine.shared_bytes;
}

void* shared_memory(std::size_t bytes) {
  if (bytes > machine.shared_bytes) fail("the launch gave less shared memory than the kernel uses", {"shared()", 0});
  return machine.self->block->shared;
}

void cp_async16(void* shared, const void* global, bool valid, Site site) {
  if (!aligned(shared) || !aligned(global)) fail("cp_async16: an address is no multiple of 16", site);
  if (!in_shared(shared, 16)) fail("cp_async16: the destination is outside shared memory", site);
  ++machine.counters.async_copies;
  const Copy copy = {shared, valid ? global : nullptr, machine.self->groups};
  if (heard_by != nullptr) heard_by->copy_starts(shared, copy.from, site);
  const Copies when = machine.schedule.copies;
  if (when == Copies::kEarly || (when == Copies::kRandom && draw() % 2 == 0)) land(copy);
  machine.self->copies.push_back(copy);
}

void cp_async_commit() { ++machine.self->groups; }

void cp_async_wait(int pending) {
  std::vector<Copy>& copies = machine.self->copies;
  const int last = machine.self->groups - pending;
  const auto landed = [last](const Copy& copy) { return copy.group < last; };
  for (const Copy& copy : copies) {
    if (!landed(copy)) continue;
    land(copy);
    if (heard_by != nullptr) heard_by->copy_lands(copy.to);
  }
  copies.erase(std::remove_if(copies.begin(), copies.end(), landed), copies.end());
}

}  // namespace wordkiln::simt
