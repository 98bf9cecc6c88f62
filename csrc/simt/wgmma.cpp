// The products of warpgroups. See hopper.h.
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "simt/asynchronous.h"

namespace simt {
namespace {

constexpr uint32_t kWarpgroup = 128;
constexpr int kRows = 64, kDepth = 16;    // of every product
constexpr uint32_t kPoison = 0x7fc0dead;  // a NaN

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
thread_local std::array<Warpgroup, 8> warpgroups;
thread_local std::vector<Thread> threads;

uint32_t index_of(const Warpgroup& group) {
  return static_cast<uint32_t>(&group - warpgroups.data());
}

// Every thread of the warpgroup brings `input`; the last one to arrive calls last(its fibers),
// which decides who goes on.
template <class Last>
void together(const char* instruction, const void* input, Last last) {
  Fiber* me = fiber;
  const uint32_t first = me->thread / kWarpgroup * kWarpgroup;
  if (first + kWarpgroup > block->size)
    fail(std::string(instruction) + " by a warpgroup of fewer than 128 threads");
  Warpgroup& group = warpgroups[first / kWarpgroup];
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

constexpr int kTile = 32;

// sum += products, as cut() does: the error of the rounded sum (Knuth's) tells where it went away
// from zero. Of infinities and NaN the error is NaN.
__attribute__((always_inline)) inline void add_cut(float* sum, const float* products) {
  for (int c = 0; c < kTile; ++c) {
    const float a = sum[c], b = products[c], nearest = a + b, b_rounded = nearest - a;
    const float error = (a - (nearest - b_rounded)) + (b - b_rounded);
    const uint32_t bits = __float_as_uint(nearest);
    const uint32_t opposite = (bits ^ __float_as_uint(error)) >> 31;
    sum[c] = __uint_as_float(bits - (opposite & ((error < 0) | (error > 0))));
  }
}

// sum(64 x columns) += a(64 x 16) * b(16 x columns). As in warp.h, sums with the accumulator are
// cut.
__attribute__((always_inline)) inline void multiply_add(const float* a, const float* b, float* sum,
                                                        int columns) {
  for (int j = 0; j < columns; j += kTile)
    for (int i = 0; i < kRows; i += 2) {
      float top[kTile] = {}, bottom[kTile] = {};
      for (int k = 0; k < kDepth; ++k)
        for (int c = 0; c < kTile; ++c) {
          top[c] += a[i * kDepth + k] * b[k * columns + j + c];
          bottom[c] += a[(i + 1) * kDepth + k] * b[k * columns + j + c];
        }
      add_cut(&sum[i * columns + j], top);
      add_cut(&sum[(i + 1) * columns + j], bottom);
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

void start_products() {
  for (Warpgroup& group : warpgroups) group = Warpgroup{};
  threads.resize(block->size);
  for (Thread& thread : threads) {
    thread.fenced = false;
    thread.group = 0;
  }
}

bool advance_products() {
  for (Warpgroup& group : warpgroups)
    if (group.waiting) {
      resume(group);
      return true;
    }
  return false;
}

void end_products() {
  for (const Warpgroup& group : warpgroups)
    if (!group.products.empty()) fail("the block ends with a wgmma that is not waited for");
}

std::string stuck_in_warpgroup(const Fiber& f) {
  return std::string("at ") + warpgroups[f.thread / kWarpgroup].at +
         " for the rest of its warpgroup";
}

void wgmma_fence() {
  Thread& me = threads[fiber->thread];
  me.fenced = true;
  keep_stack(me);
}

void wgmma_commit() { ++threads[fiber->thread].group; }

void wgmma_wait(int groups_left) {
  Quiet quiet;
  Thread& me = threads[fiber->thread];
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
  const Issue mine{d, a, a_descriptor, b_descriptor, columns, add, threads[fiber->thread].group};
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
      const Thread& thread = threads[fibers[i].thread];
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
        require_fenced(threads[fibers[i].thread], issue(i).d, columns * 2);
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
