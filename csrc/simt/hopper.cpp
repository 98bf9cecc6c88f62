// mbarriers, bulk copies and wgmma of the emulator. See hopper.h.
#include "simt/hopper.h"

#include <array>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

namespace simt {
namespace {

constexpr uint32_t kWarpgroup = 128;
constexpr int kRows = 64, kDepth = 16;  // of every product
constexpr uint32_t kSharedBase = 1024;
constexpr uint64_t kBarrierStamp = 0x6d62617272696572;  // high part of an initialized mbarrier
constexpr uint32_t kPoison = 0x7fc0dead;                // a NaN

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

// The d of products under way, as a matrix.
struct Accumulator {
  int columns;
  std::array<float*, kWarpgroup> registers;
  std::vector<float> value;
};

using Element = uint16_t;  // the bits of a half or a bfloat16
struct Operand {
  bool in_registers, transposed;
  uint64_t descriptor;
  int rows;
  std::vector<Element> bits;  // at issue: rows x 16, transposed 16 x rows
};
struct Product {
  uint32_t group;
  std::shared_ptr<Accumulator> d;
  Operand a, b;
  bool add;
  Decode decode;
};

struct Warpgroup {
  const char* at = nullptr;  // the instruction that threads have arrived at
  uint32_t arrived = 0;
  std::deque<Product> products;  // under way
  bool waiting = false;
  uint32_t wait_until = 0;  // groups that must be complete
};

// What one thread knows of its products.
struct Thread {
  bool fenced = false;
  uint32_t group = 0;  // committed groups
  // Its stack at the fence, hence all registers that a product may use.
  const unsigned char* stack = nullptr;
  std::vector<unsigned char> stack_bytes;
};

// Of the block in execution.
struct Hopper {
  std::vector<Mbarrier> barriers;
  std::deque<BulkCopy> copies;
  std::array<Warpgroup, 8> warpgroups;
  std::vector<Thread> threads;
};
thread_local Hopper hopper;

std::string hexadecimal(uint32_t address) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%x", address);
  return text;
}

// ---- shared window

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

// ---- mbarrier and bulk copies

uint32_t index_of(const Mbarrier& b) { return static_cast<uint32_t>(&b - hopper.barriers.data()); }

Mbarrier& find(const uint64_t* memory, const char* instruction) {
  if (reinterpret_cast<uintptr_t>(memory) % 8)
    fail(std::string(instruction) + " of an address that is no multiple of 8");
  if (!is_shared(memory, 8))
    fail(std::string(instruction) + " of an address outside the block's memory");
  const uint64_t index = *memory ^ kBarrierStamp;
  if (index >= hopper.barriers.size() || hopper.barriers[index].memory != memory)
    fail(std::string(instruction) + " before mbarrier.init, or the mbarrier was overwritten");
  return hopper.barriers[index];
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
  Mbarrier& b = hopper.barriers[copy.barrier];
  b.bytes -= copy.bytes;
  --b.under_way;
  advance(b);
}

// ---- wgmma

uint32_t index_of(const Warpgroup& group) {
  return static_cast<uint32_t>(&group - hopper.warpgroups.data());
}

// Every thread of the warpgroup brings `input`; the last one to arrive calls last(its fibers),
// which decides who goes on.
template <class Last>
void together(const char* instruction, const void* input, Last last) {
  Fiber* me = fiber;
  const uint32_t first = me->thread / kWarpgroup * kWarpgroup;
  if (first + kWarpgroup > block->size)
    fail(std::string(instruction) + " by a warpgroup of fewer than 128 threads");
  Warpgroup& group = hopper.warpgroups[first / kWarpgroup];
  if (group.arrived && group.at != instruction)
    fail(std::string("threads of one warpgroup are at different instructions: ") + group.at +
         " and " + instruction);
  Fiber* fibers = &block->fibers[first];
  for (uint32_t i = 0; !group.arrived && i < kWarpgroup; ++i)
    if (fibers[i].state == State::kDone)
      fail(std::string(instruction) + " by a warpgroup of which a thread has exited");
  group.at = instruction;
  me->input = input;
  me->state = State::kAtWarpgroup;
  if (++group.arrived == kWarpgroup) {
    group.arrived = 0;
    if (simt_trace_warp)
      for (uint32_t w = first / 32; w < (first + kWarpgroup) / 32; ++w) simt_trace_warp(w);
    last(group, fibers);
  }
  if (me->state != State::kReady) yield();
}

void release(Fiber* fibers) {
  for (uint32_t i = 0; i < kWarpgroup; ++i) fibers[i].state = State::kReady;
}

// The row and column of d that register r of thread i holds.
int row_of(uint32_t i, int r) { return i / 32 * 16 + i % 32 / 4 + r / 2 % 2 * 8; }
int column_of(uint32_t i, int r) { return r / 4 * 8 + i % 4 * 2 + r % 2; }

// The bits of an operand in shared memory; visit(16 bytes of it).
template <class Visit>
std::vector<Element> read(const Operand& o, Visit visit) {
  const uint64_t d = o.descriptor;
  const uint32_t start = (d & 0x3fff) << 4, leading = (d >> 16 & 0x3fff) << 4,
                 stride = (d >> 32 & 0x3fff) << 4;
  if (d >> 62 != 1) fail("wgmma with a descriptor whose layout is not the 128-byte swizzle");
  if (d >> 49 & 7) fail("wgmma with a descriptor whose base offset is not 0");
  if (start % (o.transposed ? 1024 : 32) || start % 1024 >= 128)
    fail("wgmma with a matrix at " + hexadecimal(start) + ": it must lie at a multiple of 1024" +
         (o.transposed ? "" : ", plus 32 bytes a step of the reduction"));
  if (stride % 1024) fail("wgmma with a stride between groups that is no multiple of 1024");
  if (o.transposed && o.rows > 64 && leading % 1024)
    fail("wgmma with a stride between panels that is no multiple of 1024");
  std::vector<Element> bits(o.rows * kDepth);
  auto chunk = [&](uint32_t address, Element* to) {
    address ^= address >> 3 & 0x70;  // the swizzle
    const unsigned char* memory = shared_memory(address, 16);
    visit(memory);
    std::memcpy(to, memory, 16);
  };
  if (o.transposed) {
    for (int k = 0; k < kDepth; ++k)
      for (int row = 0; row < o.rows; row += 8)
        chunk(start + k / 8 * stride + k % 8 * 128 + row / 64 * leading + row % 64 * 2,
              &bits[k * o.rows + row]);
  } else {
    for (int row = 0; row < o.rows; ++row)
      for (int k = 0; k < kDepth; k += 8)
        chunk(start + row / 8 * stride + row % 8 * 128 + k * 2, &bits[row * kDepth + k]);
  }
  return bits;
}

// The values of all bit patterns of a type.
const float* values_of(Decode decode) {
  static std::mutex mutex;
  static std::map<Decode, std::vector<float>> tables;
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<float>& table = tables[decode];
  if (table.empty()) {
    table.resize(1 << 16);
    for (uint32_t bits = 0; bits < table.size(); ++bits) table[bits] = decode(bits, 0);
  }
  return table.data();
}

// sum(64 x columns) += a(64 x 16) * b(16 x columns)
__attribute__((always_inline)) inline void multiply_add(const float* a, const float* b, float* sum,
                                                        int columns) {
  constexpr int kTile = 32;
  for (int j = 0; j < columns; j += kTile)
    for (int i = 0; i < kRows; i += 2) {
      float top[kTile] = {}, bottom[kTile] = {};
      for (int k = 0; k < kDepth; ++k)
        for (int c = 0; c < kTile; ++c) {
          top[c] += a[i * kDepth + k] * b[k * columns + j + c];
          bottom[c] += a[(i + 1) * kDepth + k] * b[k * columns + j + c];
        }
      for (int c = 0; c < kTile; ++c) sum[i * columns + j + c] += top[c];
      for (int c = 0; c < kTile; ++c) sum[(i + 1) * columns + j + c] += bottom[c];
    }
}
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void multiply_add_avx2(const float* a, const float* b,
                                                           float* sum, int columns) {
  multiply_add(a, b, sum, columns);
}
#endif

void execute(const Product& p) {
  const float* values = values_of(p.decode);
  const int columns = p.d->columns;
  thread_local std::vector<float> a(kRows * kDepth), b;
  b.resize(kDepth * columns);
  for (int i = 0; i < kRows; ++i)
    for (int k = 0; k < kDepth; ++k)
      a[i * kDepth + k] = values[p.a.bits[p.a.transposed ? k * kRows + i : i * kDepth + k]];
  for (int k = 0; k < kDepth; ++k)
    for (int j = 0; j < columns; ++j)
      b[k * columns + j] = values[p.b.bits[p.b.transposed ? k * columns + j : j * kDepth + k]];
  if (!p.add) std::fill(p.d->value.begin(), p.d->value.end(), 0.0f);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return multiply_add_avx2(a.data(), b.data(), p.d->value.data(), columns);
#endif
  multiply_add(a.data(), b.data(), p.d->value.data(), columns);
}

void to_registers(const Accumulator& d) {
  for (uint32_t i = 0; i < kWarpgroup; ++i)
    for (int r = 0; r < d.columns / 2; ++r)
      d.registers[i][r] = d.value[row_of(i, r) * d.columns + column_of(i, r)];
}
void from_registers(Accumulator& d) {
  for (uint32_t i = 0; i < kWarpgroup; ++i)
    for (int r = 0; r < d.columns / 2; ++r)
      d.value[row_of(i, r) * d.columns + column_of(i, r)] = d.registers[i][r];
}
void poison(const Accumulator& d) {
  for (float* registers : d.registers)
    for (int r = 0; r < d.columns / 2; ++r) std::memcpy(&registers[r], &kPoison, 4);
}

void require_poison(const Accumulator& d) {
  for (const float* registers : d.registers)
    for (int r = 0; r < d.columns / 2; ++r)
      if (std::memcmp(&registers[r], &kPoison, 4))
        fail("accumulators of a wgmma were written before the product was waited for");
}

void keep_stack(Thread& thread) {
#if !defined(__SANITIZE_ADDRESS__)  // which forbids to read all of a stack
  thread.stack = static_cast<const unsigned char*>(__builtin_frame_address(0));
  thread.stack_bytes.assign(thread.stack, fiber->stack_end);
#endif
}
void require_fenced(const Thread& thread, const void* registers, size_t bytes) {
  const size_t at = static_cast<const unsigned char*>(registers) - thread.stack;
  if (at < thread.stack_bytes.size() && std::memcmp(&thread.stack_bytes[at], registers, bytes))
    fail("registers that a wgmma uses were written after wgmma.fence");
}

void require_unchanged(const Operand& o) {
  if (!o.in_registers && read(o, [](const void*) {}) != o.bits)
    fail("shared memory that a wgmma reads changed before the product was waited for");
}

// Completes the products of the groups before `until`.
void complete(Warpgroup& group, uint32_t until) {
  while (!group.products.empty() &&
         static_cast<int32_t>(group.products.front().group - until) < 0) {
    const Product p = std::move(group.products.front());
    group.products.pop_front();
    require_unchanged(p.a);
    require_unchanged(p.b);
    if (options.async_early) continue;
    execute(p);
    const bool last = std::none_of(group.products.begin(), group.products.end(),
                                   [&](const Product& later) { return later.d == p.d; });
    if (!last) continue;
    require_poison(*p.d);
    to_registers(*p.d);
  }
}

void resume(Warpgroup& group) {
  group.waiting = false;
  complete(group, group.wait_until);
  const uint32_t i = index_of(group);
  if (simt_trace_products_done) simt_trace_products_done(i, group.wait_until);
  release(&block->fibers[i * kWarpgroup]);
}

}  // namespace

// ---- what the scheduler asks

void start_asynchronous() {
  hopper.barriers.clear();
  hopper.copies.clear();
  for (Warpgroup& group : hopper.warpgroups) group = Warpgroup{};
  hopper.threads.resize(block->size);
  for (Thread& thread : hopper.threads) {
    thread.fenced = false;
    thread.group = 0;
  }
}

bool advance_asynchronous() {
  if (const size_t n = hopper.copies.size()) {
    static thread_local uint32_t random;
    random = random * 1664525u + 1013904223u + options.seed;
    const size_t i = options.order == Options::kForward   ? 0
                     : options.order == Options::kReverse ? n - 1
                                                          : (random >> 8) % n;
    const BulkCopy copy = hopper.copies[i];
    hopper.copies.erase(hopper.copies.begin() + i);
    land(copy);
    return true;
  }
  for (Warpgroup& group : hopper.warpgroups)
    if (group.waiting) {
      resume(group);
      return true;
    }
  return false;
}

void end_asynchronous() {
  for (const Warpgroup& group : hopper.warpgroups)
    if (!group.products.empty()) fail("the block ends with a wgmma that is not waited for");
  if (!hopper.copies.empty()) fail("the block ends with a bulk copy under way");
  for (const Mbarrier& b : hopper.barriers)
    if (b.bytes)
      fail("the block ends with " + std::to_string(b.bytes) +
           " bytes that a phase of an mbarrier expects and that no bulk copy brought");
}

std::string stuck_asynchronous() {
  std::string text;
  for (uint32_t i = 0; i < block->size && text.empty(); ++i) {
    const Fiber& f = block->fibers[i];
    if (f.state == State::kAtWarpgroup) {
      text = "; thread " + std::to_string(i) + " waits at " + hopper.warpgroups[i / kWarpgroup].at +
             " for the rest of its warpgroup";
    } else if (f.state == State::kAtMbarrier) {
      const Mbarrier& b = hopper.barriers[*static_cast<const uint64_t*>(f.input) ^ kBarrierStamp];
      text = "; thread " + std::to_string(i) + " waits for parity " + std::to_string(f.operation) +
             " of the mbarrier at " + hexadecimal(shared_address(b.memory)) + ", in whose phase " +
             std::to_string(b.phase) + " are missing " + std::to_string(b.pending) + " of " +
             std::to_string(b.arrivals) + " arrivals and " + std::to_string(b.bytes) + " bytes";
    }
  }
  return text;
}

// ---- what kernels call

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

void mbarrier_init(uint64_t* memory, int arrivals) {
  Quiet quiet;
  if (reinterpret_cast<uintptr_t>(memory) % 8)
    fail("mbarrier.init of an address that is no multiple of 8");
  if (!is_shared(memory, 8)) fail("mbarrier.init of an address outside the block's memory");
  if (arrivals < 1 || arrivals >= 1 << 20)
    fail("mbarrier.init with " + std::to_string(arrivals) + " arrivals");
  for (const Mbarrier& b : hopper.barriers)
    if (b.memory == memory) fail("mbarrier.init of an mbarrier that is in use");
  if (simt_trace_mbarrier) simt_trace_mbarrier(memory, 1, SIMT_SITE);
  *memory = kBarrierStamp ^ hopper.barriers.size();
  hopper.barriers.push_back(
      {.memory = memory, .initializer = fiber->thread, .arrivals = arrivals, .pending = arrivals});
}

void mbarrier_init_fence() {
  Quiet quiet;
  for (Mbarrier& b : hopper.barriers)
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
  while ((hopper.barriers[index].phase & 1) == static_cast<uint32_t>(parity)) {
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
    hopper.copies.push_back(copy);
}

void fence_async_shared() {
  if (simt_trace_fence) simt_trace_fence();
}

void wgmma_fence() {
  Thread& me = hopper.threads[fiber->thread];
  me.fenced = true;
  keep_stack(me);
}

void wgmma_commit() { ++hopper.threads[fiber->thread].group; }

void wgmma_wait(int groups_left) {
  Quiet quiet;
  Thread& me = hopper.threads[fiber->thread];
  me.fenced = false;
  const uint32_t until = me.group - std::min<uint32_t>(groups_left, me.group);
  together("wgmma.wait_group", &until, [](Warpgroup& group, Fiber* fibers) {
    group.wait_until = *static_cast<const uint32_t*>(fibers[0].input);
    for (uint32_t i = 1; i < kWarpgroup; ++i)
      if (*static_cast<const uint32_t*>(fibers[i].input) != group.wait_until)
        fail("threads of one warpgroup have committed or wait for different groups of wgmma");
    if (options.async_early)
      resume(group);
    else
      group.waiting = true;
  });
}

void wgmma(float* d, int columns, const uint32_t* a, uint64_t a_descriptor, uint64_t b_descriptor,
           bool transposed, bool add, Decode decode) {
  Quiet quiet;
  struct Issue {
    float* d;
    const uint32_t* a;
    uint64_t a_descriptor, b_descriptor;
    int columns;
    bool add;
    uint32_t group;
    bool agrees(const Issue& o) const {
      return a_descriptor == o.a_descriptor && b_descriptor == o.b_descriptor &&
             columns == o.columns && add == o.add && group == o.group;
    }
  };
  const Issue mine{
      d, a, a_descriptor, b_descriptor, columns, add, hopper.threads[fiber->thread].group};
  const void* site = SIMT_SITE;
  together("wgmma", &mine, [&](Warpgroup& group, Fiber* fibers) {
    auto issue = [&](uint32_t i) -> const Issue& {
      return *static_cast<const Issue*>(fibers[i].input);
    };
    for (uint32_t i = 0; i < kWarpgroup; ++i) {
      if (!issue(i).agrees(issue(0)))
        fail(
            "threads of one warpgroup disagree on a wgmma: its descriptors, its size, whether it "
            "adds, or its group");
      const Thread& thread = hopper.threads[fibers[i].thread];
      if (!thread.fenced)
        fail("wgmma without wgmma.fence since the last wgmma.wait_group or the kernel's start");
      if (a) require_fenced(thread, issue(i).a, 16);
    }
    Product p{.group = mine.group,
              .a = {a != nullptr, transposed, a_descriptor, kRows, {}},
              .b = {false, transposed, b_descriptor, columns, {}},
              .add = add,
              .decode = decode};
    auto trace = [&](const void* memory) {
      if (simt_trace_product) simt_trace_product(memory, 16, index_of(group), mine.group, site);
    };
    if (a) {
      p.a.transposed = false;
      p.a.bits.resize(kRows * kDepth);
      for (uint32_t i = 0; i < kWarpgroup; ++i)
        for (int r = 0; r < 8; ++r)  // registers 2 and 3 hold the second half of the depth
          p.a.bits[row_of(i, r) * kDepth + column_of(i, r)] =
              static_cast<Element>(issue(i).a[r / 2] >> 16 * (r % 2));
    } else {
      p.a.bits = read(p.a, trace);
      block->counters.shared_async_bytes += kRows * kDepth * sizeof(Element);
    }
    p.b.bits = read(p.b, trace);
    block->counters.shared_async_bytes += columns * kDepth * sizeof(Element);
    block->counters.mma += kWarpgroup / 32;
    block->counters.mma_macs += kRows * kDepth * columns;

    for (const Product& earlier : group.products)
      if (earlier.d->registers[0] == issue(0).d) p.d = earlier.d;
    if (!p.d) {
      p.d = std::make_shared<Accumulator>();
      p.d->columns = columns;
      for (uint32_t i = 0; i < kWarpgroup; ++i) {
        p.d->registers[i] = issue(i).d;
        require_fenced(hopper.threads[fibers[i].thread], issue(i).d, columns * 2);
      }
      p.d->value.resize(kRows * columns);
      if (add) from_registers(*p.d);
      if (!options.async_early) poison(*p.d);
    } else if (p.d->columns != columns) {
      fail("wgmma of another size into accumulators that are under way");
    }
    if (options.async_early) {
      execute(p);
      to_registers(*p.d);
    }
    group.products.push_back(std::move(p));
    release(fibers);
  });
}

}  // namespace simt
