// mbarriers and bulk copies of the emulator. See hopper.h.
#include <deque>

#include "simt/asynchronous.h"

namespace simt {
namespace {

constexpr uint64_t kStamp = 0x6d62617272696572;  // xor its index: what an mbarrier's memory holds

struct Mbarrier {
  uint64_t* memory;
  uint32_t initializer;  // thread
  bool fenced = false;
  int arrivals, pending;  // of a phase; still missing in the current one
  int64_t bytes = 0;      // expected and not landed
  int under_way = 0;      // copies
  uint32_t phase = 0;     // completed phases
};

struct BulkCopy {
  void* target;
  const void* source;
  int bytes;
  uint32_t barrier;
};

// Of the block in execution.
thread_local std::vector<Mbarrier> barriers;
thread_local std::deque<BulkCopy> copies;
thread_local uint32_t random_state;

uint32_t index_of(const Mbarrier& b) { return static_cast<uint32_t>(&b - barriers.data()); }

Mbarrier& find(const uint64_t* memory, const char* instruction) {
  if (reinterpret_cast<uintptr_t>(memory) % 8)
    fail(std::string(instruction) + " of an address that is no multiple of 8");
  if (!is_shared(memory, 8))
    fail(std::string(instruction) + " of an address outside the block's memory");
  const uint64_t index = *memory ^ kStamp;
  if (index >= barriers.size() || barriers[index].memory != memory)
    fail(std::string(instruction) + " before mbarrier.init, or the mbarrier was overwritten");
  return barriers[index];
}

void advance(Mbarrier& b) {
  if (b.pending) return;
  if (b.bytes < 0) fail("more bytes of bulk copies landed than a phase of the mbarrier expects");
  if (b.bytes) return;
  if (b.under_way)
    fail(
        "a phase of an mbarrier ends while a bulk copy that it counts is under way: too few bytes "
        "are expected");
  b.pending = b.arrivals;
  ++b.phase;
  if (simt_trace_phase) simt_trace_phase(index_of(b), b.phase);
  for (uint32_t i = 0; i < block->size; ++i) {
    Fiber& f = block->fibers[i];
    if (f.state == State::kAtMbarrier && f.input == b.memory) f.state = State::kReady;
  }
}

void land(const BulkCopy& copy) {
  std::memcpy(copy.target, copy.source, copy.bytes);
  Mbarrier& b = barriers[copy.barrier];
  b.bytes -= copy.bytes;
  --b.under_way;
  advance(b);
}

}  // namespace

void start_copies() {
  barriers.clear();
  copies.clear();
  random_state = options.seed + block->linear;
}

bool advance_copies() {
  const size_t n = copies.size();
  if (n == 0) return false;
  random_state = random_state * 1664525u + 1013904223u;
  const size_t i = options.order == Options::kForward   ? 0
                   : options.order == Options::kReverse ? n - 1
                                                        : (random_state >> 8) % n;
  const BulkCopy copy = copies[i];
  copies.erase(copies.begin() + i);
  land(copy);
  return true;
}

void end_copies() {
  if (!copies.empty()) fail("the block ends with a bulk copy under way");
  for (const Mbarrier& b : barriers)
    if (b.bytes)
      fail("the block ends with " + std::to_string(b.bytes) +
           " bytes that a phase of an mbarrier expects and that no bulk copy brought");
}

std::string stuck_at_mbarrier(const Fiber& f) {
  const Mbarrier& b = *std::find_if(barriers.begin(), barriers.end(),
                                    [&](const Mbarrier& b) { return b.memory == f.input; });
  return "for parity " + std::to_string(f.operation) + " of the mbarrier at " +
         hexadecimal(shared_address(b.memory)) + ", in whose phase " + std::to_string(b.phase) +
         " are missing " + std::to_string(b.pending) + " of " + std::to_string(b.arrivals) +
         " arrivals and " + std::to_string(b.bytes) + " bytes";
}

void mbarrier_init(uint64_t* memory, int arrivals) {
  Quiet quiet;
  if (reinterpret_cast<uintptr_t>(memory) % 8)
    fail("mbarrier.init of an address that is no multiple of 8");
  if (!is_shared(memory, 8)) fail("mbarrier.init of an address outside the block's memory");
  if (arrivals < 1 || arrivals >= 1 << 20)
    fail("mbarrier.init with " + std::to_string(arrivals) + " arrivals");
  for (const Mbarrier& b : barriers)
    if (b.memory == memory) fail("mbarrier.init of an mbarrier that is in use");
  if (simt_trace_mbarrier) simt_trace_mbarrier(memory, 1, SIMT_SITE);
  *memory = kStamp ^ barriers.size();
  barriers.push_back(
      {.memory = memory, .initializer = fiber->thread, .arrivals = arrivals, .pending = arrivals});
}

void mbarrier_init_fence() {
  Quiet quiet;
  for (Mbarrier& b : barriers)
    if (b.initializer == fiber->thread) b.fenced = true;
}

void mbarrier_arrive(uint64_t* memory, int expected_bytes) {
  Quiet quiet;
  Mbarrier& b = find(memory, "mbarrier.arrive");
  if (!b.pending) fail("more arrivals than a phase of the mbarrier expects");
  if (simt_trace_mbarrier) simt_trace_mbarrier(memory, 0, SIMT_SITE);
  if (simt_trace_arrive) simt_trace_arrive(index_of(b));
  b.bytes += expected_bytes;
  --b.pending;
  advance(b);
}

void mbarrier_wait(uint64_t* memory, int parity) {
  Quiet quiet;
  if (parity != 0 && parity != 1) fail("mbarrier.try_wait with a parity that is neither 0 nor 1");
  const uint32_t index = index_of(find(memory, "mbarrier.try_wait"));
  if (simt_trace_mbarrier) simt_trace_mbarrier(memory, 0, SIMT_SITE);
  // Like hardware, a thread that comes back late may find that the next phase has ended as well.
  while ((barriers[index].phase & 1) == static_cast<uint32_t>(parity)) {
    fiber->input = memory;
    fiber->operation = parity;
    fiber->state = State::kAtMbarrier;
    yield();
  }
  if (simt_trace_pass) simt_trace_pass(index);
}

void bulk_load(void* shared, const void* global, int bytes, uint64_t* memory) {
  Quiet quiet;
  Mbarrier& b = find(memory, "cp.async.bulk");
  if (!b.fenced) fail("cp.async.bulk with an mbarrier whose initialization was not fenced");
  if (bytes <= 0 || bytes % 16)
    fail("cp.async.bulk of " + std::to_string(bytes) + " bytes: no multiple of 16");
  if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16)
    fail("cp.async.bulk with an address that is no multiple of 16");
  if (!is_shared(shared, bytes)) fail("cp.async.bulk writes outside the block's shared memory");
  if (simt_trace_mbarrier) {
    simt_trace_mbarrier(memory, 0, SIMT_SITE);
    simt_trace_bulk(shared, global, bytes, index_of(b), b.phase, SIMT_SITE);
  }
  block->counters.async_bytes += bytes;
  ++b.under_way;
  const BulkCopy copy{shared, global, bytes, index_of(b)};
  if (options.async_early)
    land(copy);
  else
    copies.push_back(copy);
}

}  // namespace simt
