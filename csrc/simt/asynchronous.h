// Between the parts of the emulation of Hopper: the block's shared window, and what each part tells
// the scheduler (see simt.h: start_asynchronous() and the others).
#pragma once

#include "simt/hopper.h"

namespace simt {

bool is_shared(const void* p, size_t bytes);
const unsigned char* shared_memory(uint32_t address, uint32_t bytes);
std::string hexadecimal(uint32_t address);

// mbarrier.cpp
void start_copies();
bool advance_copies();
void end_copies();
std::string stuck_at_mbarrier(const Fiber& f);

// wgmma.cpp
void start_products();
bool advance_products();
void end_products();
std::string stuck_in_warpgroup(const Fiber& f);

}  // namespace simt
