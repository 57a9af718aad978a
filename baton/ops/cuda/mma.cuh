// SPDX-License-Identifier: Apache-2.0
// Instructions of the tensor units and of asynchronous copies that sm_80 and later have. Layouts
// are those of the PTX ISA, "Matrix fragments for mma.m16n8k16": lane 4r + c of a warp holds of a
// 16 x 8 accumulator rows r and r + 8, columns 2c and 2c + 1.
#pragma once

#include <cuda_bf16.h>

namespace baton {

/// Accumulators: d[0], d[1] of row lane / 4, columns 2 (lane % 4) and the next; d[2], d[3] of the
/// row eight below.
using Accumulator = float[4];

/// Left operand, 16 x 16 bf16: registers 0 to 3 are the 8 x 8 quarters (rows 0-7, columns 0-7),
/// (rows 8-15, columns 0-7), (rows 0-7, columns 8-15), (rows 8-15, columns 8-15).
using LeftFragment = unsigned[4];

/// Right operand, 16 x 8 (k by n) bf16: register 0 holds k 0-7, register 1 k 8-15.
using RightFragment = unsigned[2];

/// d += a b
__device__ inline void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8 x 8 tiles of 2-byte values in shared memory. Lane 8i + r names the first of the eight
/// values of row r of tile i, at a multiple of 16 bytes. Register i of lane 4r + c receives values
/// 2c and 2c + 1 of row r of tile i: the fragment of a left operand stored row by row, or of a
/// right operand stored with its k side by side (n by k).
__device__ inline void load_tiles(unsigned (&to)[4], const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/// The same, each tile transposed: register i of lane 4r + c receives value r of rows 2c and 2c
/// + 1.
__device__ inline void load_tiles_transposed(unsigned (&to)[4], const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/// Starts the copy of 16 bytes to shared memory; `bytes` (0 or 16) of them come from `from`, the
/// rest are zeros. Both at multiples of 16 bytes.
__device__ inline void copy_async(void* to_shared, const void* from, int bytes) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to_shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
               :
               : "r"(address), "l"(from), "r"(bytes)
               : "memory");
}

/// The same for kBytes, which are 4, 8 or 16, at multiples of as many.
template <int kBytes>
__device__ inline void copy_bytes_async(void* to_shared, const void* from) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to_shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;\n"
               :
               : "r"(address), "l"(from), "n"(kBytes)
               : "memory");
}

/// Ends a group of this thread's copies.
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/// Waits until at most kGroups of this thread's groups are under way; a barrier must follow before
/// other threads read what they brought.
template <int kGroups>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroups) : "memory");
}

/// Two values side by side as bf16, the first in the low half.
__device__ inline unsigned pack_bf16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const unsigned*>(&pair);
}

} // namespace baton
