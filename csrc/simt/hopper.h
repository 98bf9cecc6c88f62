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
void mbarrier_wait(uint64_t* barrier, int parity, const void* site);
void bulk_load(void* shared, const void* global, int bytes, uint64_t* barrier, const void* site);
void fence_async_shared();

void wgmma_fence(const void* site);
void wgmma_commit(const void* site);
void wgmma_wait(int groups_left, const void* site);

using Decode = float (*)(uint32_t word, int element);

// d(64 x columns) += a(64 x 16) * b(16 x columns) by the 128 threads of a warpgroup. a is in
// registers, or null and described by a_descriptor. transposed: the operands in shared memory are
// MN-major.
void wgmma(float* d, int columns, const uint32_t* a, uint64_t a_descriptor, uint64_t b_descriptor,
           bool transposed, bool add, Decode decode, const void* site);

}  // namespace simt
