// SPDX-License-Identifier: Apache-2.0
// Instructions that only sm_90a has: products of a warpgroup (128 threads), copies of tiles by the
// tensor memory accelerator, and the barriers in shared memory that such copies complete on.
// Layouts are those of the PTX ISA, "Asynchronous warpgroup level matrix instructions".
#pragma once

#include <cuda_bf16.h>

#include "baton/ops/cuda/fast_math.cuh"

namespace baton {

/// How global memory is cut in tiles, made by the host: a CUtensorMap. A parameter of a kernel that
/// is declared `const __grid_constant__`.
struct alignas(64) TileMap {
  unsigned char bytes[128];
};

__device__ inline unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

/// `threads` threads of the block, whole warps, come here before any of them goes on. Not id 0,
/// which
/// __syncthreads() uses.
__device__ inline void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

/// Registers of a thread from here on: more than at the start, or fewer. All warps of a warpgroup.
template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}

/// A barrier in shared memory that is passed once `arrivals` have come and all bytes that were
/// announced. A wait names the parity of the phase that it wants over: 0 for the first.
struct SharedBarrier {
  unsigned long long state;

  __device__ void start(unsigned arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;\n" ::"r"(shared_address(&state)), "r"(arrivals)
                 : "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];\n" ::"r"(shared_address(&state)) : "memory");
  }
  __device__ void arrive_expecting(unsigned bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n" ::"r"(shared_address(&state)),
        "r"(bytes)
        : "memory");
  }
  __device__ void wait(unsigned parity) {
    asm volatile(
        "{\n.reg .pred passed;\nagain_%=:\n"
        "mbarrier.try_wait.parity.shared.b64 passed, [%0], %1;\n@!passed bra again_%=;\n}\n" ::"r"(
            shared_address(&state)),
        "r"(parity)
        : "memory");
  }
};

/// After start() of the barriers of a block, before __syncthreads().
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

/// What this thread wrote to shared memory may be read by products and by copies of tiles, once a
/// barrier has passed.
__device__ inline void publish_to_units() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

/// Starts the copy of a tile; its bytes arrive at the barrier. Zeros stand for what lies outside.
__device__ inline void
load_tile(void* to, const TileMap& map, int column, int row, SharedBarrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];\n" ::"r"(shared_address(to)),
      "l"(&map),
      "r"(column),
      "r"(row),
      "r"(shared_address(&barrier.state))
      : "memory");
}

/// Brings a tile as near as the cache that all multiprocessors share.
__device__ inline void prefetch_tile(const TileMap& map, int column, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];\n" ::"l"(&map),
               "r"(column),
               "r"(row)
               : "memory");
}

/// Starts the copy of a tile back.
__device__ inline void store_tile(const void* from, const TileMap& map, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n"
      "cp.async.bulk.commit_group;\n" ::"l"(&map),
      "r"(column),
      "r"(row),
      "r"(shared_address(from))
      : "memory");
}

/// Starts the copy of `bytes` neighbours, a multiple of 16; they arrive at the barrier. Both at
/// multiples of 16.
__device__ inline void load_bytes(void* to, const void* from, int bytes, SharedBarrier& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::
          "r"(shared_address(to)),
      "l"(from),
      "r"(bytes),
      "r"(shared_address(&barrier.state))
      : "memory");
}

/// Starts the copy of such bytes back.
__device__ inline void store_bytes(const void* from, void* to, int bytes) {
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n"
      "cp.async.bulk.commit_group;\n" ::"l"(to),
      "r"(shared_address(from)),
      "r"(bytes)
      : "memory");
}

/// Waits until the tiles and bytes that this thread stores have been read from shared memory.
__device__ inline void wait_for_stores() {
  asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory");
}

/// The mirror of load_tiles (mma.cuh): four 8 x 8 tiles of 2-byte values to shared memory. Lane 8i
/// + r names where row r of tile i begins, at a multiple of 16 bytes.
__device__ inline void store_tiles(const unsigned (&from)[4], void* row) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(shared_address(row)),
      "r"(from[0]),
      "r"(from[1]),
      "r"(from[2]),
      "r"(from[3])
      : "memory");
}

/// Where granule `granule` (16 bytes) of row `row` lies in a panel: rows of 128 bytes in the
/// 128-byte swizzle, as load_tile() lays them and products read them. A panel begins at a multiple
/// of 1024.
__device__ inline unsigned swizzled(int row, int granule) {
  return static_cast<unsigned>(row * 128 + ((granule ^ (row & 7)) << 4));
}

/// Operand in a panel, or in panels of 64 columns that lie panel_bytes apart where its rows run
/// along k and it is wider.
__device__ inline unsigned long long operand(const void* panel, unsigned panel_bytes = 16) {
  constexpr unsigned kEightRows = 1024;
  return static_cast<unsigned long long>((shared_address(panel) & 0x3ffff) >> 4) |
         static_cast<unsigned long long>(panel_bytes >> 4) << 16 |
         static_cast<unsigned long long>(kEightRows >> 4) << 32 | 1ull << 62;
}

/// Before products whose registers or tiles this warp has just written.
__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
/// Ends a group of products.
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
/// Waits until at most kGroups groups are under way.
template <int kGroups>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kGroups) : "memory");
}

/// d = a b + d, or a b where `fresh`, 64 x 64 x 16: rows of a run along m, those of b along n.
__device__ inline void
multiply_tiles(float (&d)[8][4], unsigned long long a, unsigned long long b, bool fresh) {
  asm volatile(
      "{.reg .pred keep; setp.ne.b32 keep, %34, 0; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, keep, 1, 1, 0, 0;}\n"
      : "+f"(d[0][0]),
        "+f"(d[0][1]),
        "+f"(d[0][2]),
        "+f"(d[0][3]),
        "+f"(d[1][0]),
        "+f"(d[1][1]),
        "+f"(d[1][2]),
        "+f"(d[1][3]),
        "+f"(d[2][0]),
        "+f"(d[2][1]),
        "+f"(d[2][2]),
        "+f"(d[2][3]),
        "+f"(d[3][0]),
        "+f"(d[3][1]),
        "+f"(d[3][2]),
        "+f"(d[3][3]),
        "+f"(d[4][0]),
        "+f"(d[4][1]),
        "+f"(d[4][2]),
        "+f"(d[4][3]),
        "+f"(d[5][0]),
        "+f"(d[5][1]),
        "+f"(d[5][2]),
        "+f"(d[5][3]),
        "+f"(d[6][0]),
        "+f"(d[6][1]),
        "+f"(d[6][2]),
        "+f"(d[6][3]),
        "+f"(d[7][0]),
        "+f"(d[7][1]),
        "+f"(d[7][2]),
        "+f"(d[7][3])
      : "l"(a), "l"(b), "r"(fresh ? 0 : 1));
}

/// d += a b, 64 x 64 x 16: a in registers as mma.cuh's left operand, 16 rows a warp; b's rows run
/// along k.
__device__ inline void
multiply_held(float (&d)[8][4], const unsigned (&a)[4], unsigned long long b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      : "+f"(d[0][0]),
        "+f"(d[0][1]),
        "+f"(d[0][2]),
        "+f"(d[0][3]),
        "+f"(d[1][0]),
        "+f"(d[1][1]),
        "+f"(d[1][2]),
        "+f"(d[1][3]),
        "+f"(d[2][0]),
        "+f"(d[2][1]),
        "+f"(d[2][2]),
        "+f"(d[2][3]),
        "+f"(d[3][0]),
        "+f"(d[3][1]),
        "+f"(d[3][2]),
        "+f"(d[3][3]),
        "+f"(d[4][0]),
        "+f"(d[4][1]),
        "+f"(d[4][2]),
        "+f"(d[4][3]),
        "+f"(d[5][0]),
        "+f"(d[5][1]),
        "+f"(d[5][2]),
        "+f"(d[5][3]),
        "+f"(d[6][0]),
        "+f"(d[6][1]),
        "+f"(d[6][2]),
        "+f"(d[6][3]),
        "+f"(d[7][0]),
        "+f"(d[7][1]),
        "+f"(d[7][2]),
        "+f"(d[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/// d += a b, 64 x 128 x 16: a in registers as mma.cuh's left operand, 16 rows a warp; b's rows run
/// along k.
__device__ inline void
multiply_held(float (&d)[16][4], const unsigned (&a)[4], unsigned long long b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
      "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "
      "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
      : "+f"(d[0][0]),
        "+f"(d[0][1]),
        "+f"(d[0][2]),
        "+f"(d[0][3]),
        "+f"(d[1][0]),
        "+f"(d[1][1]),
        "+f"(d[1][2]),
        "+f"(d[1][3]),
        "+f"(d[2][0]),
        "+f"(d[2][1]),
        "+f"(d[2][2]),
        "+f"(d[2][3]),
        "+f"(d[3][0]),
        "+f"(d[3][1]),
        "+f"(d[3][2]),
        "+f"(d[3][3]),
        "+f"(d[4][0]),
        "+f"(d[4][1]),
        "+f"(d[4][2]),
        "+f"(d[4][3]),
        "+f"(d[5][0]),
        "+f"(d[5][1]),
        "+f"(d[5][2]),
        "+f"(d[5][3]),
        "+f"(d[6][0]),
        "+f"(d[6][1]),
        "+f"(d[6][2]),
        "+f"(d[6][3]),
        "+f"(d[7][0]),
        "+f"(d[7][1]),
        "+f"(d[7][2]),
        "+f"(d[7][3]),
        "+f"(d[8][0]),
        "+f"(d[8][1]),
        "+f"(d[8][2]),
        "+f"(d[8][3]),
        "+f"(d[9][0]),
        "+f"(d[9][1]),
        "+f"(d[9][2]),
        "+f"(d[9][3]),
        "+f"(d[10][0]),
        "+f"(d[10][1]),
        "+f"(d[10][2]),
        "+f"(d[10][3]),
        "+f"(d[11][0]),
        "+f"(d[11][1]),
        "+f"(d[11][2]),
        "+f"(d[11][3]),
        "+f"(d[12][0]),
        "+f"(d[12][1]),
        "+f"(d[12][2]),
        "+f"(d[12][3]),
        "+f"(d[13][0]),
        "+f"(d[13][1]),
        "+f"(d[13][2]),
        "+f"(d[13][3]),
        "+f"(d[14][0]),
        "+f"(d[14][1]),
        "+f"(d[14][2]),
        "+f"(d[14][3]),
        "+f"(d[15][0]),
        "+f"(d[15][1]),
        "+f"(d[15][2]),
        "+f"(d[15][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

} // namespace baton
