// The product of bfloat16 pairs by AMX: sums of 16 x 16 in a tile register, two by two of them at a
// time.
#pragma once

#include "../common/vec.h"
#include "actpoint_cpu.h"

namespace ggnet::GGNET_ISA {

// Pairs of the depth, rows, and columns of sums that an instruction takes.
inline constexpr int kTileSide = 16;

// With these in assembly, as the compiler's own do not tell it that they read memory.
#define GGNET_TILE_CONFIGURE(at) __asm__ volatile("ldtilecfg %0" ::"m"(at))
#define GGNET_TILE_RELEASE() __asm__ volatile("tilerelease" ::: "memory")
#define GGNET_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile::: "memory")
#define GGNET_TILE_LOAD(tile, at, bytes) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(at), "r"(bytes) : "memory")
#define GGNET_TILE_STORE(tile, at, bytes) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(at), "r"(bytes) : "memory")
#define GGNET_TILE_DOT(sums, a, b) \
  __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sums::: "memory")

struct Tiles {
  // Tiles 0 to 3 are sums, 4 and 5 rows of a, 6 and 7 columns of b.
  static void configure(int upper, int lower) {
    struct alignas(64) {
      unsigned char palette = 1, start_row = 0, reserved[14] = {};
      u16 row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      unsigned char rows[16] = {};
    } config;
    const int rows[] = {upper, upper, lower, lower, upper, lower, kTileSide, kTileSide};
    for (int i = 0; i < 8; ++i) config.rows[i] = rows[i];
    GGNET_TILE_CONFIGURE(config);
  }

  template <bool kLower>
  static GGNET_INLINE void block(const u32* a, int64_t a_row, const u32* b, int64_t b_row,
                                 int64_t depth, float* c, int64_t c_row, bool accumulate) {
    const int64_t a_bytes = a_row * sizeof(u32), b_bytes = b_row * sizeof(u32),
                  c_bytes = c_row * sizeof(float);
    const u32* lower = a + kTileSide * a_row;
    float* c_lower = c + kTileSide * c_row;
    if (accumulate) {
      GGNET_TILE_LOAD(0, c, c_bytes);
      GGNET_TILE_LOAD(1, c + kTileSide, c_bytes);
      if constexpr (kLower) {
        GGNET_TILE_LOAD(2, c_lower, c_bytes);
        GGNET_TILE_LOAD(3, c_lower + kTileSide, c_bytes);
      }
    } else {
      GGNET_TILE_ZERO(0);
      GGNET_TILE_ZERO(1);
      if constexpr (kLower) {
        GGNET_TILE_ZERO(2);
        GGNET_TILE_ZERO(3);
      }
    }
    for (int64_t d = 0; d < depth; d += kTileSide) {
      GGNET_TILE_LOAD(6, b + d * b_row, b_bytes);
      GGNET_TILE_LOAD(4, a + d, a_bytes);
      GGNET_TILE_DOT(0, 4, 6);
      GGNET_TILE_LOAD(7, b + d * b_row + kTileSide, b_bytes);
      GGNET_TILE_DOT(1, 4, 7);
      if constexpr (kLower) {
        GGNET_TILE_LOAD(5, lower + d, a_bytes);
        GGNET_TILE_DOT(2, 5, 6);
        GGNET_TILE_DOT(3, 5, 7);
      }
    }
    GGNET_TILE_STORE(0, c, c_bytes);
    GGNET_TILE_STORE(1, c + kTileSide, c_bytes);
    if constexpr (kLower) {
      GGNET_TILE_STORE(2, c_lower, c_bytes);
      GGNET_TILE_STORE(3, c_lower + kTileSide, c_bytes);
    }
  }

  // As Gemm's run by rows, for panels of two tiles and a depth of whole ones.
  template <typename Sizes>
  static void run(const Sizes& g, const u32* a, const u32* b, float* c) {
    constexpr int64_t kRows = 2 * kTileSide;
    const int64_t whole = g.rows / kRows * kRows, left = g.rows - whole;
    const auto at = [&](int64_t row, auto&& multiply) GGNET_LAMBDA_INLINE {
      for (int64_t j = 0; j < g.panels; ++j)
        multiply(a + row * g.row_stride, b + j * g.b_panel, c + j * g.c_panel + row * g.c_row);
    };
    const auto two = [&](const u32* a, const u32* b, float* c) GGNET_LAMBDA_INLINE {
      block<true>(a, g.row_stride, b, g.b_depth, g.depth, c, g.c_row, g.accumulate);
    };
    const auto one = [&](const u32* a, const u32* b, float* c) GGNET_LAMBDA_INLINE {
      block<false>(a, g.row_stride, b, g.b_depth, g.depth, c, g.c_row, g.accumulate);
    };
    if (whole) {
      configure(kTileSide, kTileSide);
      for (int64_t row = 0; row < whole; row += kRows) at(row, two);
    }
    if (left > kTileSide) {
      configure(kTileSide, int(left - kTileSide));
      at(whole, two);
    } else if (left) {
      configure(int(left), 1);
      at(whole, one);
    }
    GGNET_TILE_RELEASE();
  }
};

}  // namespace ggnet::GGNET_ISA
