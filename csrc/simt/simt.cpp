// The scheduler of the emulator: fibers, blocks, workers. See simt.h.
#include "simt/simt.h"

#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define SIMT_ASAN 1
#else
#define SIMT_ASAN 0
#endif

#if defined(__x86_64__)
// Saves the callee-saved registers and the stack pointer in *from, continues at `to`. Written by
// hand because swapcontext makes a system call for the signal mask at every switch.
asm(R"(
.text
.globl simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");
extern "C" void simt_switch(void** from, void* to);
#else
#include <ucontext.h>
#endif

namespace simt {

Options options;
Counters counters;
thread_local Block* block = nullptr;
thread_local Fiber* fiber = nullptr;

namespace {

constexpr size_t kStack = SIMT_ASAN ? 256u << 10 : 96u << 10;
constexpr uint32_t kMaxThreads = 1024;

// What a worker keeps between blocks besides `block`.
struct Worker {
  Block state;
  unsigned char* stacks = nullptr;
  void* scheduler = nullptr;
  const void* scheduler_stack = nullptr;  // ASan's view of the worker's own stack
  size_t scheduler_stack_size = 0;
  const std::function<void()>* body = nullptr;
  const char* kernel = "";
  std::string error;
#if !defined(__x86_64__)
  ucontext_t scheduler_context{};
  std::vector<ucontext_t> contexts{kMaxThreads};
#endif
  Worker() {
    stacks = static_cast<unsigned char*>(std::aligned_alloc(4096, kStack * kMaxThreads));
    if (!stacks) throw std::bad_alloc();
    state.fibers.resize(kMaxThreads);
    state.stacks = stacks;
    state.stacks_end = stacks + kStack * kMaxThreads;
  }
  ~Worker() { std::free(stacks); }
};

thread_local Worker* worker = nullptr;

void to_scheduler(bool for_good) {
#if SIMT_ASAN
  Fiber* me = fiber;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &me->fake_stack, worker->scheduler_stack,
                                 worker->scheduler_stack_size);
#endif
#if defined(__x86_64__)
  simt_switch(&fiber->stack_pointer, worker->scheduler);
#else
  swapcontext(&worker->contexts[fiber->thread], &worker->scheduler_context);
#endif
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(me->fake_stack, &worker->scheduler_stack,
                                  &worker->scheduler_stack_size);
#endif
  (void)for_good;
}

void release_barrier() {
  Block& b = *block;
  b.arrived = 0;
  b.barrier_result = b.barrier_sum;
  b.barrier_sum = 0;
  ++b.counters.barriers;
  for (uint32_t i = 0; i < b.size; ++i)
    if (b.fibers[i].state == State::kAtBarrier) b.fibers[i].state = State::kReady;
  if (simt_trace_barrier) simt_trace_barrier();
}

extern "C" __attribute__((used, noinline)) void simt_fiber_entry() {
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &worker->scheduler_stack, &worker->scheduler_stack_size);
#endif
  block->quiet = false;
  (*worker->body)();
  block->quiet = true;
  // Hardware drops outstanding copies' effects on nobody's behalf; a thread that exits without
  // waiting has a bug only if somebody reads the target, which then still holds NaN.
  fiber->state = State::kDone;
  --block->alive;
  if (block->alive && block->arrived == block->alive) release_barrier();
  to_scheduler(true);
  std::abort();  // a finished fiber is never resumed
}

void prepare(Fiber& f) {
  f.stack_end = worker->stacks + (f.thread + 1) * kStack;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(worker->stacks + (f.thread + 1) * kStack);
  *--top = nullptr;  // return address of the entry: never used, keeps the stack aligned
  *--top = reinterpret_cast<void*>(simt_fiber_entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.stack_pointer = top;
#else
  ucontext_t& c = worker->contexts[f.thread];
  getcontext(&c);
  c.uc_stack.ss_sp = worker->stacks + f.thread * kStack;
  c.uc_stack.ss_size = kStack;
  c.uc_link = nullptr;
  makecontext(&c, simt_fiber_entry, 0);
#endif
  f.fake_stack = nullptr;
}

void resume(Fiber& f) {
  fiber = &f;
#if SIMT_ASAN
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, worker->stacks + f.thread * kStack, kStack);
#endif
#if defined(__x86_64__)
  simt_switch(&worker->scheduler, f.stack_pointer);
#else
  swapcontext(&worker->scheduler_context, &worker->contexts[f.thread]);
#endif
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// The i-th of n things in the order asked for; `salt` varies a shuffled order from round to round.
uint32_t pick(uint32_t i, uint32_t n, const Options& how, uint32_t salt) {
  if (how.order == Options::kForward) return i;
  if (how.order == Options::kReverse) return n - 1 - i;
  const uint32_t random = (how.seed * 2654435761u + salt) * 2246822519u >> 7;
  return n == 32 ? i ^ (random & 31) : (i + random) % n;
}

void run_block(const Options& how) {
  Block& b = *block;
  b.alive = b.size;
  b.arrived = 0;
  b.barrier_sum = 0;
  b.shared_bytes = b.dynamic_bytes;
  if (b.dynamic_bytes) std::memset(b.dynamic_shared, 0xff, b.dynamic_bytes);
  for (SharedSlot& slot : b.shared) std::free(slot.memory);
  b.shared.clear();
  for (uint32_t i = 0; i < b.size; ++i) {
    Fiber& f = b.fibers[i];
    f.thread = i;
    f.lane = i & 31;
    f.index = make_uint3(i % b.shape.x, i / b.shape.x % b.shape.y, i / (b.shape.x * b.shape.y));
    f.state = State::kReady;
    f.pending.clear();
    f.group = 0;
    prepare(f);
  }
  start_asynchronous();
  uint32_t round = 0;
  while (b.alive && worker->error.empty()) {
    bool progress = false;
    const uint32_t warps = (b.size + 31) / 32, salt = b.linear + round;
    for (uint32_t k = 0; k < warps; ++k) {
      const uint32_t w = pick(k, warps, how, salt);
      const uint32_t lanes = std::min(32u, b.size - w * 32);
      for (bool again = true; again && worker->error.empty();) {
        again = false;
        ++round;
        for (uint32_t l = 0; l < lanes; ++l) {
          Fiber& f = b.fibers[w * 32 + pick(l, lanes, how, b.linear + w + round)];
          if (f.state != State::kReady) continue;
          resume(f);
          if (!worker->error.empty()) return;
          again = progress = true;
        }
      }
    }
    if (progress) continue;
    fiber = nullptr;
    if (!advance_asynchronous())
      fail("deadlock: threads wait at a barrier or warp collective that others never reach" +
           stuck_asynchronous());
  }
  fiber = nullptr;
  end_asynchronous();
  b.counters.threads += b.size;
  ++b.counters.blocks;
  b.counters.shared_bytes_per_block =
      std::max<uint64_t>(b.counters.shared_bytes_per_block, b.shared_bytes);
  if (simt_trace_block) simt_trace_block();
}

std::string place() {
  const Block& b = *block;
  return " (kernel " + std::string(worker->kernel) + ", block " + std::to_string(b.index.x) + "," +
         std::to_string(b.index.y) + "," + std::to_string(b.index.z) + ")";
}

}  // namespace

void Counters::add(const Counters& o) {
  blocks += o.blocks;
  threads += o.threads;
  barriers += o.barriers;
  collectives += o.collectives;
  mma += o.mma;
  mma_macs += o.mma_macs;
  async_bytes += o.async_bytes;
  shared_async_bytes += o.shared_async_bytes;
  load_bytes += o.load_bytes;
  load_sectors += o.load_sectors;
  load_requests += o.load_requests;
  store_bytes += o.store_bytes;
  store_sectors += o.store_sectors;
  store_requests += o.store_requests;
  atomic_bytes += o.atomic_bytes;
  atomic_requests += o.atomic_requests;
  shared_phases += o.shared_phases;
  shared_wavefronts += o.shared_wavefronts;
  shared_bytes_per_block = std::max(shared_bytes_per_block, o.shared_bytes_per_block);
}

void fail(const std::string& what) {
  if (!fiber) throw std::runtime_error(what);  // the scheduler's own work
  worker->error = what + "; thread " + std::to_string(fiber->thread);
  // The fiber is abandoned with its stack: kernels own nothing that would have to be destroyed.
  to_scheduler(true);
  std::abort();
}

void yield() { to_scheduler(false); }

int barrier(const void* site, int predicate, bool count) {
  Quiet quiet;
  Block& b = *block;
  if (b.arrived == 0) {
    b.barrier_site = site;
  } else if (b.barrier_site != site) {
    fail("threads of one block wait at different __syncthreads()");
  }
  b.barrier_sum += predicate;
  ++b.arrived;
  if (b.arrived == b.alive) {
    release_barrier();
  } else {
    fiber->state = State::kAtBarrier;
    yield();
  }
  return count ? b.barrier_result : 0;
}

void* shared_slot(const void* key, size_t bytes, size_t alignment) {
  Quiet quiet;
  Block& b = *block;
  for (const SharedSlot& slot : b.shared)
    if (slot.key == key) return slot.memory;
  b.shared_bytes += bytes;
  if (b.shared_bytes > options.shared_limit)
    fail("the block uses " + std::to_string(b.shared_bytes) +
         " bytes of shared memory; the limit is " + std::to_string(options.shared_limit));
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes)) fail("out of memory");
  std::memset(memory, 0xff, bytes);
  b.shared.push_back({key, static_cast<unsigned char*>(memory), bytes});
  return memory;
}

void* dynamic_shared() {
  if (!block->dynamic_shared)
    fail("the kernel uses dynamic shared memory; the launch gave it none");
  return block->dynamic_shared;
}

static void land(const AsyncCopy& copy) {
  Quiet quiet;
  if (simt_trace_access) {
    static const char read_site = 0, write_site = 0;
    block->quiet = false;
    if (copy.bytes) simt_trace_access(copy.source, copy.bytes, 0, &read_site);
    simt_trace_access(copy.target, copy.bytes + copy.zero_bytes, 1, &write_site);
    block->quiet = true;
  }
  std::memcpy(copy.target, copy.source, copy.bytes);
  std::memset(static_cast<unsigned char*>(copy.target) + copy.bytes, 0, copy.zero_bytes);
}

void async_copy(void* target, const void* source, int bytes, int source_bytes) {
  Quiet quiet;
  if (reinterpret_cast<uintptr_t>(target) % bytes ||
      (source_bytes && reinterpret_cast<uintptr_t>(source) % bytes))
    fail("cp.async with a misaligned address");
  block->counters.async_bytes += source_bytes;
  AsyncCopy copy{target, source, source_bytes, bytes - source_bytes, fiber->group};
  if (options.async_early)
    land(copy);
  else
    fiber->pending.push_back(copy);
}

void async_commit() { ++fiber->group; }

void async_wait(int groups_left) {
  Quiet quiet;
  auto& pending = fiber->pending;
  size_t kept = 0;
  for (const AsyncCopy& copy : pending) {
    // wait_group N: all but the N most recent committed groups have landed.
    if (copy.group < fiber->group - groups_left)
      land(copy);
    else
      pending[kept++] = copy;
  }
  pending.resize(kept);
}

void run(const char* name, dim3 grid, dim3 shape, size_t dynamic_bytes,
         const std::function<void()>& body) {
  const uint64_t threads = uint64_t{shape.x} * shape.y * shape.z;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  auto refuse = [&](const std::string& why) {
    throw std::runtime_error("launch of " + std::string(name) + ": " + why);
  };
  if (threads == 0 || threads > kMaxThreads)
    refuse(std::to_string(threads) + " threads a block; 1 to 1024 are possible");
  if (blocks == 0 || grid.y > 65535 || grid.z > 65535 || grid.x > 2147483647u)
    refuse("grid " + std::to_string(grid.x) + "x" + std::to_string(grid.y) + "x" +
           std::to_string(grid.z) + " is not possible");
  if (dynamic_bytes > options.shared_limit)
    refuse(std::to_string(dynamic_bytes) + " bytes of shared memory; the limit is " +
           std::to_string(options.shared_limit));

  counters = Counters{};
  if (simt_trace_launch) simt_trace_launch();
  const Options how = options;
  const int workers =
      simt_trace_access ? 1 : std::clamp<int>(how.workers, 1, static_cast<int>(blocks));
  std::atomic<uint64_t> next{0};
  std::mutex mutex;
  std::string error;

  // Stacks and fibers are kept between launches: mapping them anew would cost more than small
  // kernels.
  static std::vector<std::unique_ptr<Worker>> pool;
  while (pool.size() < static_cast<size_t>(workers)) pool.push_back(std::make_unique<Worker>());

  auto work = [&](Worker& self) {
    worker = &self;
    block = &self.state;
    self.error.clear();
    self.body = &body;
    self.kernel = name;
    Block& b = self.state;
    b.counters = Counters{};
    b.grid = grid;
    b.shape = shape;
    b.size = static_cast<uint32_t>(threads);
    b.dynamic_bytes = dynamic_bytes;
    if (dynamic_bytes) {
      void* memory = nullptr;
      if (posix_memalign(&memory, 1024, dynamic_bytes)) throw std::bad_alloc();
      b.dynamic_shared = static_cast<unsigned char*>(memory);
    }
    for (uint64_t i; (i = next.fetch_add(1)) < blocks;) {
      b.linear = pick(static_cast<uint32_t>(i), static_cast<uint32_t>(blocks), how, 0);
      b.index =
          make_uint3(b.linear % grid.x, b.linear / grid.x % grid.y, b.linear / grid.x / grid.y);
      try {
        run_block(how);
      } catch (const std::runtime_error& failure) {
        self.error = failure.what();
      }
      if (!self.error.empty()) {
        std::lock_guard<std::mutex> lock(mutex);
        if (error.empty()) error = self.error + place();
        next = blocks;
      }
    }
    {
      std::lock_guard<std::mutex> lock(mutex);
      counters.add(b.counters);
    }
    for (SharedSlot& slot : b.shared) std::free(slot.memory);
    b.shared.clear();
    std::free(b.dynamic_shared);
    b.dynamic_shared = nullptr;
    fiber = nullptr;
    block = nullptr;
    worker = nullptr;
  };
  if (workers == 1) {
    work(*pool[0]);
  } else {
    std::vector<std::thread> team;
    for (int i = 0; i < workers; ++i) team.emplace_back(work, std::ref(*pool[i]));
    for (std::thread& t : team) t.join();
  }
  if (error.empty() && simt_trace_races) error = simt_trace_races();
  if (!error.empty()) throw std::runtime_error(error);
}

}  // namespace simt
