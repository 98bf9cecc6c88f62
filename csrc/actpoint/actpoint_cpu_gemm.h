// The matrix product of the deformable convolution's CPU kernels: packed panels of the second
// operand against rows of the first.
#pragma once

#include "../common/vec.h"
#include "actpoint_cpu.h"
#ifdef GGNET_AMX
#include "actpoint_cpu_tiles.h"
#endif

namespace ggnet::GGNET_ISA {

inline constexpr int kRows = GGNET_GEMM_ROWS;  // of the micro-kernel; divides kTile
inline constexpr int kPanelVectors = 2;        // its columns, in vectors
static_assert(kTile % kRows == 0);

// What the depth of a product is padded to, in elements; pairs in units of GGNET_PAIRS of them.
#ifndef GGNET_PAIRS
#define GGNET_PAIRS 1
#endif
template <bool kPairs>
inline constexpr int64_t kDepth = kPairs ? 2 * GGNET_PAIRS : 1;

template <typename A>
struct Gemm {
  static constexpr int N = kLanes<A>;
  static constexpr int kPanel = kPanelVectors * N;
  static constexpr int kLine = 64 / sizeof(A);
  using V = Vec<A, N>;

  // c[R, kPanel] (+)= a[R, depth] b[depth, kPanel]; element (r, d) of a is a[r * rs + d * ds].
  template <int R>
  static GGNET_INLINE void micro(const A* a, int64_t rs, int64_t ds, const A* b, int64_t bs,
                                 int64_t depth, A* c, int64_t cs, bool accumulate) {
    V acc[R][kPanelVectors];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(c + r * cs, 1);
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) acc[r][v] = V{};
    }
#pragma GCC unroll 4
    for (int64_t d = 0; d < depth; ++d) {
      V row[kPanelVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) row[v] = load<N>(b + d * bs + v * N);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const V x = splat<V>(a[r * rs + d * ds]);
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVectors; ++v) acc[r][v] += x * row[v];
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) {
        if (accumulate) acc[r][v] += load<N>(c + r * cs + v * N);
        store<N>(c + r * cs + v * N, acc[r][v]);
      }
  }

  // The same over bfloat16 pairs along the depth: a[r, d] and b[d, n] are pairs.
  template <int R>
  static GGNET_INLINE void micro(const u32* a, int64_t rs, int64_t ds, const u32* b, int64_t bs,
                                 int64_t depth, A* c, int64_t cs, bool accumulate) {
    using VP = Vec<u32, N>;
    V acc[R][kPanelVectors];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(c + r * cs, 1);
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) acc[r][v] = V{};
    }
    for (int64_t d = 0; d < depth; ++d) {
      VP row[kPanelVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) row[v] = load_raw<VP>(b + d * bs + v * N);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const VP x = a[r * rs + d * ds] - VP{};
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVectors; ++v) acc[r][v] = dot_bf16<N>(acc[r][v], x, row[v]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) {
        if (accumulate) acc[r][v] += load<N>(c + r * cs + v * N);
        store<N>(c + r * cs + v * N, acc[r][v]);
      }
  }

  template <int R, typename E>
  static void micro_part(int64_t rows, const E* a, int64_t rs, int64_t ds, const E* b, int64_t bs,
                         int64_t depth, A* c, int64_t cs, bool accumulate) {
    if (rows >= R)
      micro<R>(a, rs, ds, b, bs, depth, c, cs, accumulate);
    else if constexpr (R > 1)
      micro_part<R - 1>(rows, a, rs, ds, b, bs, depth, c, cs, accumulate);
  }

  struct Sizes {
    int64_t rows, panels, depth;
    int64_t row_stride, depth_stride;  // of a
    int64_t b_panel, b_depth;          // strides of b between panels, and along the depth
    int64_t c_panel, c_row;
    bool accumulate;
  };
  // kByRow: a's rows are apart and its depth adjacent (else the other way round).
  template <bool kByRow, typename E>
  static void run(const Sizes& g, const E* a, const E* b, A* c) {
#ifdef GGNET_AMX
    if constexpr (std::is_same_v<E, u32>) return Tiles::run(g, a, b, c);
#endif
    const int64_t rs = kByRow ? g.row_stride : 1, ds = kByRow ? 1 : g.depth_stride;
    // While a panel of b serves the rows, the next one comes from L3 to L2, a share for each group
    // of rows.
    const int64_t groups = ceil_div(g.rows, kRows);
    const int64_t share = round_up(ceil_div(g.depth * kPanel, groups), kLine);
    for (int64_t j = 0; j < g.panels; ++j) {
      const E* bj = b + j * g.b_panel;
      A* cj = c + j * g.c_panel;
      const E* next = bj + g.b_panel;
      for (int64_t i = 0; i < g.rows; i += kRows) {
        if (kByRow)
          for (int64_t e = 0; e < share; e += kLine) __builtin_prefetch(next + e, 0, 2);
        next += share;
        micro_part<kRows>(g.rows - i, a + i * rs, rs, ds, bj, g.b_depth, g.depth, cj + i * g.c_row,
                          g.c_row, g.accumulate);
      }
    }
  }
};

}  // namespace ggnet::GGNET_ISA
