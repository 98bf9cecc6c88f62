// The instrumented build: data races and memory traffic of every access that a kernel makes.
//
// Kernel files are compiled with -fsanitize=thread, for the instrumentation only: the __tsan_*
// functions that it calls are those below, not the sanitizer's. This file is compiled without it.
//
// Races: two accesses of one byte, one of them a write, not both atomic, that nothing orders. What
// orders: being of one thread; a barrier between them (one block); a collective of the whole warp
// between them (one warp); an arrival at an mbarrier after the one and a wait for its phase before
// the other; being of different launches. Blocks of a launch are never ordered. A bulk copy writes
// from its issue to the end of the phase that counts it, a wgmma reads shared memory from its issue
// to the wait for its group. What a thread stored, either may only meet behind that thread's
// fence.proxy.async.
//
// Traffic: the k-th execution of one instruction by the lanes of a warp, between two full-warp
// synchronizations, is one request of the warp, as it is on hardware when the warp has converged.
#include <dlfcn.h>
#include <pthread.h>

#include <array>
#include <memory>
#include <unordered_map>

#include "simt/hopper.h"

namespace {

using simt::block;
using simt::fiber;

// Who accesses memory: the threads of a block, then its warpgroups (their products), then its
// mbarriers (the bulk copies that they count).
constexpr uint32_t kWarpgroups = 8;
uint32_t warpgroup_actor(uint32_t i) { return block->size + i; }
uint32_t mbarrier_actor(uint32_t i) { return block->size + kWarpgroups + i; }

struct Access {
  uint64_t launch = 0;
  uint32_t block = 0, actor = 0, time = 0;
  uint32_t fences = 0;  // fence.proxy.async that the thread had executed
  const void* site = nullptr;
  bool atomic = false;
};
struct Readers {
  uint32_t first = 0, mask = 0, time = 0;  // actors first + i for the bits i
  const void* site = nullptr;
};
// The last write of a byte, and the reads since that no other read follows.
struct Cell {
  Access write;
  uint64_t read_launch = 0;
  uint32_t read_block = 0;
  bool many_blocks = false;  // read it
  Readers readers;
  std::unique_ptr<std::vector<Readers>> more;
};

// For each actor the time up to which all that it did is known to have happened. Time is counted
// by warps, in groups of products, and in phases.
using Knowledge = std::vector<uint32_t>;
uint32_t at(const Knowledge& k, uint32_t actor) { return actor < k.size() ? k[actor] : 0; }
void set(Knowledge& k, uint32_t actor, uint32_t time) {
  if (actor >= k.size()) k.resize(actor + 1);
  k[actor] = time;
}
void join(Knowledge& k, const Knowledge& other) {
  if (k.size() < other.size()) k.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) k[i] = std::max(k[i], other[i]);
}
struct Mbarrier {
  Knowledge arrived, ended;  // of those who arrived so far; of the phases that have ended
};
// Of the block in execution.
struct Order {
  std::array<uint32_t, 32> time{};                 // of each warp
  std::array<Knowledge, 32> warp;                  // since its last collective
  std::array<Knowledge, 1024> thread;              // beyond its warp's
  std::array<std::vector<uint32_t>, 1024> fences;  // when each thread executed fence.proxy.async
  std::vector<Mbarrier> mbarriers;
};
Order order;

bool happened(uint32_t thread, uint32_t actor, uint32_t time) {
  return actor == thread || at(order.warp[thread / 32], actor) > time ||
         at(order.thread[thread], actor) > time;
}

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
         within(a, &simt::block, sizeof(void*)) || within(a, &simt::fiber, sizeof(void*));
}

Cell& cell(uintptr_t a) {
  if (!last_cells || a / kPage != last_page) {
    last_page = a / kPage;
    last_cells = &pages[last_page];
    if (last_cells->empty()) last_cells->resize(kPage);
  }
  return (*last_cells)[a % kPage];
}

std::string describe(uint32_t block_index, uint32_t actor, const void* site) {
  std::string text = "block " + std::to_string(block_index);
  if (actor < block->size)
    text += " thread " + std::to_string(actor);
  else if (actor < mbarrier_actor(0))
    text += " wgmma of warpgroup " + std::to_string(actor - warpgroup_actor(0));
  else
    text += " bulk copy";
  Dl_info info;
  if (!dladdr(site, &info) || !info.dli_fname) return text + " at ?";
  char offset[64];
  std::snprintf(offset, sizeof(offset), "+0x%zx",
                static_cast<const char*>(site) - static_cast<const char*>(info.dli_fbase));
  return text + " at " + info.dli_fname + offset;
}

void report(const std::string& what, uint32_t earlier_block, uint32_t earlier_actor,
            const void* earlier_site, const Access& now, bool shared) {
  if (race_count++ >= 3) return;
  races += std::string(races.empty() ? "" : "\n") + what + " in " + (shared ? "shared" : "global") +
           " memory: " + describe(earlier_block, earlier_actor, earlier_site) + "; " +
           describe(now.block, now.actor, now.site);
}

// seen(actor, time): whether that happened before the access now.
template <class Seen>
void note_read(Cell& c, const Access& now, bool shared, Seen seen) {
  const uint32_t first = now.actor < block->size ? now.actor / 32 * 32 : now.actor;
  const Readers mine{first, 1u << (now.actor - first), now.time, now.site};
  if (c.read_launch != now.launch || (shared && c.read_block != now.block)) {
    c.read_launch = now.launch;
    c.read_block = now.block;
    c.many_blocks = false;
    c.readers = mine;
    c.more.reset();
    return;
  }
  if (c.read_block != now.block) c.many_blocks = true;
  if (c.many_blocks) return;
  auto merge = [&](Readers& r) {
    if (r.first != mine.first || r.time != mine.time) return false;
    r.mask |= mine.mask;
    return true;
  };
  if (merge(c.readers)) return;
  auto follows = [&](const Readers& r) {
    for (uint32_t mask = r.mask; mask; mask &= mask - 1)
      if (!seen(r.first + __builtin_ctz(mask), r.time)) return false;
    return true;
  };
  if (c.more) {
    for (Readers& r : *c.more)
      if (merge(r)) return;
    std::erase_if(*c.more, follows);
  }
  if (follows(c.readers)) {
    c.readers = mine;
  } else {
    if (!c.more) c.more = std::make_unique<std::vector<Readers>>();
    c.more->push_back(mine);
  }
}

// The reader of a cell that a write may overtake.
template <class Seen>
bool find_reader(const Cell& c, const Access& now, bool shared, Seen seen, uint32_t& actor,
                 const void*& site) {
  if (c.read_launch != now.launch || (c.read_block != now.block && shared)) return false;
  auto overtaken = [&](const Readers& r) {
    for (uint32_t mask = r.mask; mask; mask &= mask - 1) {
      actor = r.first + __builtin_ctz(mask);
      site = r.site;
      if (c.many_blocks || c.read_block != now.block || !seen(actor, r.time)) return true;
    }
    return false;
  };
  return overtaken(c.readers) || (c.more && std::any_of(c.more->begin(), c.more->end(), overtaken));
}

// asynchronous: by wgmma or a bulk copy.
template <class Seen>
void touch(uintptr_t a, int bytes, bool write, bool asynchronous, const Access& now, bool shared,
           Seen seen) {
  for (int i = 0; i < bytes; ++i) {
    Cell& c = cell(a + i);
    const Access& w = c.write;
    if (w.launch == now.launch && !(now.atomic && w.atomic)) {
      if (w.block != now.block ? !shared : !seen(w.actor, w.time))
        return report(write ? "data race (write after write)" : "data race (read after write)",
                      w.block, w.actor, w.site, now, shared);
      if (asynchronous && w.block == now.block && w.actor < block->size) {
        const auto& fences = order.fences[w.actor];
        if (w.fences >= fences.size() || !seen(w.actor, fences[w.fences]))
          return report("no fence.proxy.async between a store and its asynchronous use", w.block,
                        w.actor, w.site, now, shared);
      }
    }
    if (!write) {
      note_read(c, now, shared, seen);
      continue;
    }
    uint32_t actor;
    const void* site;
    if (find_reader(c, now, shared, seen, actor, site))
      return report("data race (write after read)", c.read_block, actor, site, now, shared);
    c.write = now;
    c.read_launch = 0;
    c.more.reset();
  }
}

Access by_thread(const void* site, bool atomic) {
  const uint32_t t = fiber->thread;
  return {
      launch, block->linear, t, order.time[t / 32], static_cast<uint32_t>(order.fences[t].size()),
      site,   atomic};
}
auto seen_by_thread() {
  return [t = fiber->thread](uint32_t actor, uint32_t time) { return happened(t, actor, time); };
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
  touch(a, bytes, write, false, by_thread(site, atomic), shared, seen_by_thread());
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
void simt_trace_warp(unsigned w) {
  settle_warp(w);
  ++order.time[w];
  for (uint32_t t = w * 32; t < std::min(w * 32 + 32, block->size); ++t) {
    join(order.warp[w], order.thread[t]);
    order.thread[t].clear();
    set(order.warp[w], t, order.time[w]);
  }
}
void simt_trace_barrier() {
  const uint32_t count = (block->size + 31) / 32;
  Knowledge all;
  for (uint32_t w = 0; w < count; ++w) {
    simt_trace_warp(w);
    join(all, order.warp[w]);
  }
  for (uint32_t w = 0; w < count; ++w) order.warp[w] = all;
}
void simt_trace_block() {
  for (unsigned w = 0; w < warps.size(); ++w) settle_warp(w);
  order = Order{};
}
void simt_trace_mbarrier(const void* memory, int initialize, const void* site) {
  touch(reinterpret_cast<uintptr_t>(memory), 8, true, false, by_thread(site, !initialize), true,
        seen_by_thread());
}
void simt_trace_arrive(unsigned barrier) {
  const uint32_t t = fiber->thread;
  if (order.mbarriers.size() <= barrier) order.mbarriers.resize(barrier + 1);
  Knowledge& arrived = order.mbarriers[barrier].arrived;
  join(arrived, order.warp[t / 32]);
  join(arrived, order.thread[t]);
  set(arrived, t, ++order.time[t / 32]);
}
void simt_trace_phase(unsigned barrier, unsigned phases) {
  Mbarrier& b = order.mbarriers[barrier];
  set(b.arrived, mbarrier_actor(barrier), phases);
  b.ended = b.arrived;
}
void simt_trace_pass(unsigned barrier) {
  if (barrier < order.mbarriers.size())
    join(order.thread[fiber->thread], order.mbarriers[barrier].ended);
}
void simt_trace_bulk(const void* shared, const void* global, int bytes, unsigned barrier,
                     unsigned phase, const void* site) {
  block->quiet = false;
  simt_trace_access(global, bytes, 0, site);
  block->quiet = true;
  const Access now{launch, block->linear, mbarrier_actor(barrier), phase, 0, site, false};
  touch(reinterpret_cast<uintptr_t>(shared), bytes, true, true, now, true, seen_by_thread());
}
void simt_trace_product(const void* shared, int bytes, unsigned warpgroup, unsigned group,
                        const void* site) {
  const Access now{launch, block->linear, warpgroup_actor(warpgroup), group, 0, site, false};
  touch(reinterpret_cast<uintptr_t>(shared), bytes, false, true, now, true,
        [&](uint32_t actor, uint32_t time) {
          for (uint32_t w = warpgroup * 4; w < warpgroup * 4 + 4; ++w)
            if (at(order.warp[w], actor) <= time) return actor == now.actor;
          return true;
        });
}
void simt_trace_products_done(unsigned warpgroup, unsigned groups) {
  for (uint32_t w = warpgroup * 4; w < warpgroup * 4 + 4; ++w)
    set(order.warp[w], warpgroup_actor(warpgroup), groups);
}
void simt_trace_fence() {
  const uint32_t t = fiber->thread;
  order.fences[t].push_back(order.time[t / 32]);
}
void simt_trace_launch() {
  ++launch;
  pages.clear();  // nothing before this launch conflicts with it
  last_cells = nullptr;
  races.clear();
  race_count = 0;
  for (auto& w : warps) w.clear();
  order = Order{};
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
