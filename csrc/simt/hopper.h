// Host emulation of the instructions that common/hopper.h wraps: mbarrier, bulk copies, wgmma.
//
// Whatever is asynchronous happens as late as possible (when no thread can go on without it) or,
// with Options::async_early, at once. Until a product is waited for, its accumulators hold NaN and
// its operands in shared memory must not change. Fails by name: descriptors and addresses that
// hardware would misread, operands that change under way, a warpgroup whose threads disagree, a
// missing wgmma.fence, arrivals or bytes that a phase does not expect, work still under way when
// the block ends.
#pragma once

#include "simt/warp.h"

namespace simt {

// Addresses of the block's shared window: dynamic shared memory starts at 1024 and is aligned to
// that, static arrays follow.
uint32_t shared_address(const void* shared);

void mbarrier_init(uint64_t* barrier, int arrivals);
void mbarrier_init_fence();
void mbarrier_arrive(uint64_t* barrier, int expected_bytes);
void mbarrier_wait(uint64_t* barrier, int parity);
void bulk_load(void* shared, const void* global, int bytes, uint64_t* barrier);
void fence_async_shared();

void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int groups_left);

using Decode = float (*)(uint32_t word, int element);

// d(64 x columns) += a(64 x 16) * b(16 x columns) by the 128 threads of a warpgroup. a is in
// registers, or null and described by a_descriptor. transposed: the operands in shared memory are
// MN-major.
void wgmma(float* d, int columns, const uint32_t* a, uint64_t a_descriptor, uint64_t b_descriptor,
           bool transposed, bool add, Decode decode);

// Hooks of the instrumented build. Products and bulk copies touch memory from here on; a product
// until its group is done, a copy until the phase that counts it has ended.
extern "C" void simt_trace_mbarrier(const void* memory, int initialize, const void* site)
    __attribute__((weak));
extern "C" void simt_trace_arrive(unsigned barrier) __attribute__((weak));
extern "C" void simt_trace_phase(unsigned barrier, unsigned phases) __attribute__((weak));  // ended
extern "C" void simt_trace_pass(unsigned barrier) __attribute__((weak));  // a wait is over
extern "C" void simt_trace_bulk(const void* shared, const void* global, int bytes, unsigned barrier,
                                unsigned phase, const void* site) __attribute__((weak));
extern "C" void simt_trace_product(const void* shared, int bytes, unsigned warpgroup,
                                   unsigned group, const void* site) __attribute__((weak));
extern "C" void simt_trace_products_done(unsigned warpgroup, unsigned groups) __attribute__((weak));
extern "C" void simt_trace_fence() __attribute__((weak));  // fence.proxy.async

}  // namespace simt
