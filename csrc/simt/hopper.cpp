// The shared window of a block, and what the scheduler asks of the asynchronous instructions.
#include <cstdio>

#include "simt/asynchronous.h"

namespace simt {
namespace {

constexpr uint32_t kSharedBase = 1024;

uint32_t align(uint32_t address, uint32_t alignment) {
  return (address + alignment - 1) / alignment * alignment;
}

// f(window address, memory, bytes) for each piece until it returns true.
template <class F>
bool any_piece(F f) {
  if (block->dynamic_bytes && f(kSharedBase, block->dynamic_shared, block->dynamic_bytes))
    return true;
  // Static arrays have no alignment to rely on beyond 16.
  uint32_t next =
      align(kSharedBase + static_cast<uint32_t>(block->dynamic_bytes), kSharedBase) + 16;
  for (const SharedSlot& slot : block->shared) {
    if (f(next, slot.memory, slot.bytes)) return true;
    next = align(next + static_cast<uint32_t>(slot.bytes), 16);
  }
  return false;
}

}  // namespace

std::string hexadecimal(uint32_t address) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%x", address);
  return text;
}

bool is_shared(const void* p, size_t bytes) {
  const auto* begin = static_cast<const unsigned char*>(p);
  return any_piece([&](uint32_t, const unsigned char* memory, size_t size) {
    return begin >= memory && begin + bytes <= memory + size;
  });
}

const unsigned char* shared_memory(uint32_t address, uint32_t bytes) {
  const unsigned char* found = nullptr;
  any_piece([&](uint32_t start, const unsigned char* memory, size_t size) {
    if (address < start || address + bytes > start + size) return false;
    found = memory + (address - start);
    return true;
  });
  if (!found)
    fail("wgmma reads shared address " + hexadecimal(address) + ", outside the block's memory");
  return found;
}

uint32_t shared_address(const void* shared) {
  uint32_t address = 0;
  const auto* p = static_cast<const unsigned char*>(shared);
  const bool found = any_piece([&](uint32_t start, const unsigned char* memory, size_t size) {
    if (p < memory || p >= memory + size) return false;
    address = start + static_cast<uint32_t>(p - memory);
    return true;
  });
  if (!found) fail("an address that should be of shared memory is not");
  return address;
}

void fence_async_shared() {
  if (simt_trace_fence) simt_trace_fence();
}

void start_asynchronous() {
  start_copies();
  start_products();
}

// Copies first: they overwrite what a product that is not waited for still reads.
bool advance_asynchronous() { return advance_copies() || advance_products(); }

void end_asynchronous() {
  end_products();
  end_copies();
}

std::string stuck_asynchronous() {
  for (uint32_t i = 0; i < block->size; ++i) {
    const Fiber& f = block->fibers[i];
    const std::string thread = "; thread " + std::to_string(i) + " waits ";
    if (f.state == State::kAtMbarrier) return thread + stuck_at_mbarrier(f);
    if (f.state == State::kAtWarpgroup) return thread + stuck_in_warpgroup(f);
  }
  return "";
}

}  // namespace simt
