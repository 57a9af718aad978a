// SPDX-License-Identifier: Apache-2.0
// How the tensor memory accelerator of sm_90 and later sees a matrix in global memory.
#pragma once

#include <array>
#include <cstdint>

namespace baton::jit {

/// A CUtensorMap: handed to a kernel by value.
struct alignas(64) TileMap {
  std::array<unsigned char, 128> bytes;
};

/// A matrix of bf16 with rows of `columns` neighbours, row_stride values apart.
struct Bf16Matrix {
  const void* data = nullptr; ///< at a multiple of 16 bytes
  std::int64_t rows = 0;      ///< 1 at least
  std::int64_t columns = 0;
  std::int64_t row_stride = 0; ///< a multiple of 8
};

/// The map of `matrix` in tiles of tile_rows (256 at most) by 64 columns, whose rows of 128 bytes
/// lie in shared memory in the 128-byte swizzle. Throws RunError where the driver refuses it.
TileMap map_tiles(const Bf16Matrix& matrix, unsigned tile_rows);

} // namespace baton::jit
