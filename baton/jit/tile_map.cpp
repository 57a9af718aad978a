// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/tile_map.h"

#include "baton/jit/driver_library.h"

namespace baton::jit {
namespace {

constexpr int kBf16 = 9;       // CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
constexpr int kNone = 0;       // of interleaving, and of a fill but zeros
constexpr int kSwizzle128 = 3; // CU_TENSOR_MAP_SWIZZLE_128B
constexpr int kPromote256 = 3; // CU_TENSOR_MAP_L2_PROMOTION_L2_256B
constexpr unsigned kTileColumns = 64;
constexpr unsigned long long kBytes = 2; // of a value

} // namespace

TileMap map_tiles(const Bf16Matrix& matrix, unsigned tile_rows) {
  TileMap map{};
  const std::array<unsigned long long, 2> sizes = {
      static_cast<unsigned long long>(matrix.columns),
      static_cast<unsigned long long>(matrix.rows)};
  const unsigned long long stride = static_cast<unsigned long long>(matrix.row_stride) * kBytes;
  const std::array<unsigned, 2> tile = {kTileColumns, tile_rows};
  const std::array<unsigned, 2> steps = {1, 1};
  check_driver(
      driver().encode_tiles(
          map.bytes.data(),
          kBf16,
          2,
          const_cast<void*>(matrix.data),
          sizes.data(),
          &stride,
          tile.data(),
          steps.data(),
          kNone,
          kSwizzle128,
          kPromote256,
          kNone),
      "a matrix cannot be cut in tiles");
  return map;
}

} // namespace baton::jit
