// The instrumented build: data races and memory traffic of every access that a kernel makes.
//
// Kernel files are compiled with -fsanitize=thread, for the instrumentation only: the __tsan_*
// functions that it calls are those below, not the sanitizer's. This file is compiled without it.
//
// Races: two accesses of one byte, one of them a write, not both atomic, that nothing orders. What
// orders: being of one thread; a barrier between them (one block); a collective of the whole warp
// between them (one warp); being of different launches. Blocks of a launch are never ordered.
//
// Traffic: the k-th execution of one instruction by the lanes of a warp, between two full-warp
// synchronizations, is one request of the warp, as it is on hardware when the warp has converged.
#include <dlfcn.h>
#include <pthread.h>

#include <array>
#include <unordered_map>

#include "simt/simt.h"

namespace {

using simt::block;
using simt::fiber;

struct Access {
  uint64_t launch = 0;
  uint32_t block = 0, thread = 0, epoch = 0, warp_epoch = 0;
  const void* site = nullptr;
  bool atomic = false;
};
enum Readers : uint8_t { kOne, kLanes, kWarps, kBlocks };
struct Cell {
  Access write, read;
  Readers readers = kOne;
};

struct Request {
  uint32_t mask = 0;
  int bytes = 0;
  uintptr_t address[32];
};
enum Kind { kLoad, kStore, kAtomic, kShared };
struct Site {
  Kind kind;
  std::array<uint32_t, 32> executions{};
  std::vector<Request> requests;
};

constexpr uintptr_t kPage = 1024;
std::unordered_map<uintptr_t, std::vector<Cell>> pages;
uintptr_t last_page = 0;  // the one found last, and its cells
std::vector<Cell>* last_cells = nullptr;
std::vector<std::unordered_map<uintptr_t, Site>> warps(32);
uint64_t launch = 0;
std::string races;
int race_count = 0;

bool within(uintptr_t a, const void* begin, size_t bytes) {
  return a - reinterpret_cast<uintptr_t>(begin) < bytes;
}

bool is_shared(uintptr_t a) {
  if (within(a, block->dynamic_shared, block->dynamic_bytes)) return true;
  for (const auto& slot : block->shared)
    if (within(a, slot.memory, slot.bytes)) return true;
  return false;
}

// Not the kernel's memory: stacks, and what threadIdx and friends read.
bool is_private(uintptr_t a) {
  static const std::pair<uintptr_t, size_t> host_stack = [] {
    pthread_attr_t attributes;
    void* base = nullptr;
    size_t size = 0;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &base, &size);
    pthread_attr_destroy(&attributes);
    return std::pair(reinterpret_cast<uintptr_t>(base), size);
  }();
  return within(a, block->stacks, block->stacks_end - block->stacks) ||
         a - host_stack.first < host_stack.second || within(a, block, sizeof(simt::Block)) ||
         within(a, block->fibers.data(), block->fibers.size() * sizeof(simt::Fiber)) ||
         within(a, &simt::block, sizeof(void*)) || within(a, &simt::fiber, sizeof(void*)) ||
         within(a, block->warp_epoch.data(), block->warp_epoch.size() * 4);
}

Cell& cell(uintptr_t a) {
  if (!last_cells || a / kPage != last_page) {
    last_page = a / kPage;
    last_cells = &pages[last_page];
    if (last_cells->empty()) last_cells->resize(kPage);
  }
  return (*last_cells)[a % kPage];
}

bool unordered(const Access& earlier, const Access& now, bool shared) {
  if (earlier.launch != now.launch) return false;
  if (earlier.block != now.block) return !shared;
  if (earlier.thread == now.thread || earlier.epoch != now.epoch) return false;
  return earlier.thread / 32 != now.thread / 32 || earlier.warp_epoch == now.warp_epoch;
}

bool unordered_with_readers(const Cell& c, const Access& now, bool shared) {
  if (c.read.launch != now.launch) return false;
  switch (c.readers) {
    case kBlocks:
      return !shared;
    case kWarps:
      return c.read.block != now.block ? !shared : c.read.epoch == now.epoch;
    case kLanes:
      if (c.read.block == now.block && c.read.thread / 32 == now.thread / 32)
        return c.read.epoch == now.epoch && c.read.warp_epoch == now.warp_epoch;
      return unordered(c.read, now, shared);
    default:
      return unordered(c.read, now, shared);
  }
}

void report(const char* what, const Access& earlier, const Access& now, bool shared) {
  if (race_count++ >= 3) return;
  auto where = [](const void* site) {
    Dl_info info;
    if (!dladdr(site, &info) || !info.dli_fname) return std::string("?");
    char text[64];
    std::snprintf(text, sizeof(text), "+0x%zx",
                  static_cast<const char*>(site) - static_cast<const char*>(info.dli_fbase));
    return std::string(info.dli_fname) + text;
  };
  auto who = [&](const Access& a) {
    return "block " + std::to_string(a.block) + " thread " + std::to_string(a.thread) + " at " +
           where(a.site);
  };
  races += std::string(races.empty() ? "" : "\n") + "data race (" + what + ") in " +
           (shared ? "shared" : "global") + " memory: " + who(earlier) + "; " + who(now);
}

void note_read(Cell& c, const Access& now) {
  const Access& r = c.read;
  if (r.launch != now.launch) {
    c.readers = kOne;
  } else if (r.block != now.block || c.readers == kBlocks) {
    c.readers = kBlocks;
  } else if (r.epoch != now.epoch) {
    c.readers = kOne;
  } else if (r.thread / 32 != now.thread / 32 || c.readers == kWarps) {
    c.readers = kWarps;
  } else if (r.warp_epoch != now.warp_epoch) {
    c.readers = kOne;
  } else if (r.thread != now.thread) {
    c.readers = kLanes;
  }
  c.read = now;
}

void count(uintptr_t a, int bytes, Kind kind, const void* site) {
  const uint32_t lane = fiber->lane;
  Site& s = warps[fiber->thread / 32][reinterpret_cast<uintptr_t>(site) * 4 + kind];
  s.kind = kind;
  const uint32_t k = s.executions[lane]++;
  if (s.requests.size() <= k) s.requests.resize(k + 1);
  Request& r = s.requests[k];
  r.mask |= 1u << lane;
  r.bytes = std::max(r.bytes, bytes);
  r.address[lane] = a;
}

void access(const void* address, int bytes, bool write, bool atomic, const void* site) {
  if (!block || block->quiet || !fiber) return;
  const uintptr_t a = reinterpret_cast<uintptr_t>(address);
  if (is_private(a)) return;
  const bool shared = is_shared(a);
  count(a, bytes, shared ? kShared : atomic ? kAtomic : write ? kStore : kLoad, site);
  const Access now{launch,
                   block->linear,
                   fiber->thread,
                   block->barrier_epoch,
                   block->warp_epoch[fiber->thread / 32],
                   site,
                   atomic};
  for (int i = 0; i < bytes; ++i) {
    Cell& c = cell(a + i);
    if (!(atomic && c.write.atomic) && unordered(c.write, now, shared))
      return report(write ? "write after write" : "read after write", c.write, now, shared);
    if (write) {
      if (unordered_with_readers(c, now, shared))
        return report("write after read", c.read, now, shared);
      c.write = now;
    } else {
      note_read(c, now);
    }
  }
}

int distinct(std::vector<uintptr_t>& values) {
  std::sort(values.begin(), values.end());
  return static_cast<int>(std::unique(values.begin(), values.end()) - values.begin());
}

void settle(const Request& r, Kind kind, simt::Counters& sum) {
  const int lanes = __builtin_popcount(r.mask);
  const uint64_t bytes = static_cast<uint64_t>(lanes) * r.bytes;
  if (kind == kShared) {
    // Accesses wider than 4 bytes go in phases of 128 bytes: 16 or 8 lanes each.
    const int phase_lanes = std::min(32, 128 / std::max(4, r.bytes));
    for (int first = 0; first < 32; first += phase_lanes) {
      std::array<std::vector<uintptr_t>, 32> words;
      bool any = false;
      for (int lane = first; lane < first + phase_lanes; ++lane)
        if (r.mask >> lane & 1) {
          any = true;
          for (uintptr_t w = r.address[lane] / 4; w <= (r.address[lane] + r.bytes - 1) / 4; ++w)
            words[w % 32].push_back(w);
        }
      if (!any) continue;
      int worst = 1;
      for (auto& bank : words) worst = std::max(worst, distinct(bank));
      ++sum.shared_phases;
      sum.shared_wavefronts += worst;
    }
    return;
  }
  std::vector<uintptr_t> sectors;
  for (int lane = 0; lane < 32; ++lane)
    if (r.mask >> lane & 1)
      for (uintptr_t s = r.address[lane] / 32; s <= (r.address[lane] + r.bytes - 1) / 32; ++s)
        sectors.push_back(s);
  const uint64_t touched = distinct(sectors);
  if (kind == kLoad) {
    sum.load_bytes += bytes;
    sum.load_sectors += touched;
    ++sum.load_requests;
  } else if (kind == kStore) {
    sum.store_bytes += bytes;
    sum.store_sectors += touched;
    ++sum.store_requests;
  } else {
    sum.atomic_bytes += bytes;
    ++sum.atomic_requests;
  }
}

void settle_warp(unsigned warp) {
  for (auto& [site, s] : warps[warp]) {
    for (const Request& r : s.requests)
      if (r.mask) settle(r, s.kind, block->counters);
    s.requests.clear();
    s.executions.fill(0);
  }
}

}  // namespace

#define SITE __builtin_return_address(0)
extern "C" {
void simt_trace_access(const void* p, int bytes, int write, const void* site) {
  access(p, bytes, write != 0, false, site);
}
void simt_trace_atomic(const void* p, int bytes, const void* site) {
  access(p, bytes, true, true, site);
}
void simt_trace_warp(unsigned warp) { settle_warp(warp); }
void simt_trace_block() {
  for (unsigned w = 0; w < warps.size(); ++w) settle_warp(w);
}
void simt_trace_launch() {
  ++launch;
  pages.clear();  // nothing before this launch conflicts with it
  last_cells = nullptr;
  races.clear();
  race_count = 0;
  for (auto& w : warps) w.clear();
}
const char* simt_trace_races() {
  if (race_count > 3) races += "\n(" + std::to_string(race_count) + " reports in all)";
  return races.c_str();
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
#define ACCESS(bytes)                                                                  \
  void __tsan_read##bytes(void* p) { access(p, bytes, false, false, SITE); }           \
  void __tsan_write##bytes(void* p) { access(p, bytes, true, false, SITE); }           \
  void __tsan_unaligned_read##bytes(void* p) { access(p, bytes, false, false, SITE); } \
  void __tsan_unaligned_write##bytes(void* p) { access(p, bytes, true, false, SITE); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* p, size_t n) { access(p, static_cast<int>(n), false, false, SITE); }
void __tsan_write_range(void* p, size_t n) { access(p, static_cast<int>(n), true, false, SITE); }
// Reference counts and guards of the host's side.
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) { return *p; }
int __tsan_atomic32_fetch_add(volatile int* p, int v, int) {
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
}
