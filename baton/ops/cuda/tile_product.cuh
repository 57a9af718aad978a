// SPDX-License-Identifier: Apache-2.0
// Matrix products of a warp whose operands are tiles in shared memory or blocks in registers: the
// same calls for bf16, on the tensor units, and for fp32, without TF32. Rows, columns and depths
// are multiples of 16.
#pragma once

#include <cuda_bf16.h>

#include "baton/ops/cuda/mma.cuh"
#include "baton/ops/cuda/tiles.cuh"

namespace baton {

/// A kRows x kColumns operand that a warp holds in registers, rounded to T and spread as WarpSums
/// are: the left operand of a product, or, transposed, the right one.
template <typename T, int kRows, int kColumns>
struct Held;

template <int kRows, int kColumns>
struct Held<float, kRows, kColumns> {
  using Value = float;
  float values[kRows / 16][kColumns / 8][4];

  __device__ void round(const WarpSums<kRows, kColumns>& from) {
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[m][n][i] = from.values[m][n][i];
        }
      }
    }
  }

  /// Element (row, column) of this is tile(first_row + column, first_column + row).
  template <int kTileColumns>
  __device__ void load_transposed(Tile<float, kTileColumns> tile, int first_row, int first_column) {
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[m][n][i] =
              *tile.at(first_row + n * 8 + own_column(i), first_column + m * 16 + own_row(i));
        }
      }
    }
  }

  __device__ void rotate() {
    rotate_columns(values);
  }

  /// Multiplies each column by its factor; `factors` has one a column.
  __device__ void scale_columns(const float* factors) {
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[m][n][i] *= factors[n * 8 + own_column(i)];
        }
      }
    }
  }
};

template <int kRows, int kColumns>
struct Held<__nv_bfloat16, kRows, kColumns> {
  using Value = __nv_bfloat16;
  unsigned pairs[kRows / 16][kColumns / 8][2]; ///< of rows 0 to 7 and 8 to 15

  __device__ void round(const WarpSums<kRows, kColumns>& from) {
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        const auto& block = from.values[m][n];
        pairs[m][n][0] = pack_bf16(block[0], block[1]);
        pairs[m][n][1] = pack_bf16(block[2], block[3]);
      }
    }
  }

  template <int kTileColumns>
  __device__ void
  load_transposed(Tile<__nv_bfloat16, kTileColumns> tile, int first_row, int first_column) {
    const int lane = warp_lane();
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; n += 2) {
        unsigned quarters[4];
        load_tiles_transposed(
            quarters,
            tile.at(
                first_row + n * 8 + lane / 16 * 8 + lane % 8,
                first_column + m * 16 + lane / 8 % 2 * 8));
        pairs[m][n][0] = quarters[0];
        pairs[m][n][1] = quarters[1];
        pairs[m][n + 1][0] = quarters[2];
        pairs[m][n + 1][1] = quarters[3];
      }
    }
  }

  __device__ void scale_columns(const float* factors) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const float even = factors[n * 8 + own_column(0)];
      const float odd = factors[n * 8 + own_column(1)];
#pragma unroll
      for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
        for (unsigned& pair : pairs[m][n]) {
          pair = pack_bf16(
              __uint_as_float(pair << 16) * even, __uint_as_float(pair & 0xffff0000u) * odd);
        }
      }
    }
  }
};

/// Operands give the tensor units fragments, at rows or columns m or n and depth k; and fp32 code
/// values, at depths k below 8 from where they stand, which is 0 until they advance() by 8. Those
/// in registers move their columns to do so, and are as before after all of them.

/// Left operand (element (m, k)) that is tile(row + m, column + k).
template <typename T, int kColumns>
struct Left {
  using Value = T;
  Tile<T, kColumns> tile;
  int row;
  int column;

  __device__ void fragment(unsigned (&to)[4], int m, int k) const {
    const int lane = warp_lane();
    load_tiles(
        to, tile.at(row + lane % 16, column + k + lane / 16 * 8) + m * Tile<T, kColumns>::kStride);
  }
  __device__ void values(float (&to)[2], int m, int k) const {
    to[0] = *tile.at(row + m + own_row(0), column + k);
    to[1] = *tile.at(row + m + own_row(2), column + k);
  }
  __device__ void advance() { column += 8; }
};

/// Left operand that is tile(row + k, column + m).
template <typename T, int kColumns>
struct LeftTransposed {
  using Value = T;
  Tile<T, kColumns> tile;
  int row;
  int column;

  __device__ void fragment(unsigned (&to)[4], int m, int k) const {
    const int lane = warp_lane();
    load_tiles_transposed(
        to,
        tile.at(row + lane / 16 * 8 + lane % 8, column + m + lane / 8 % 2 * 8) +
            k * Tile<T, kColumns>::kStride);
  }
  __device__ void values(float (&to)[2], int m, int k) const {
    to[0] = *tile.at(row + k, column + m + own_row(0));
    to[1] = *tile.at(row + k, column + m + own_row(2));
  }
  __device__ void advance() { row += 8; }
};

/// Left operand held in registers.
template <typename T, int kRows, int kColumns>
struct LeftHeld {
  using Value = T;
  Held<T, kRows, kColumns>& held;

  __device__ void fragment(unsigned (&to)[4], int m, int k) const {
    to[0] = held.pairs[m / 16][k / 8][0];
    to[1] = held.pairs[m / 16][k / 8][1];
    to[2] = held.pairs[m / 16][k / 8 + 1][0];
    to[3] = held.pairs[m / 16][k / 8 + 1][1];
  }
  __device__ void values(float (&to)[2], int m, int k) const {
    const int owner = warp_lane() / 4 * 4 + k / 2;
    to[0] = __shfl_sync(0xffffffffu, held.values[m / 16][0][k % 2], owner);
    to[1] = __shfl_sync(0xffffffffu, held.values[m / 16][0][k % 2 + 2], owner);
  }
  __device__ void advance() { held.rotate(); }
};

/// Right operand (element (k, n)) that is tile(row + k, column + n).
template <typename T, int kColumns>
struct Right {
  using Value = T;
  Tile<T, kColumns> tile;
  int row;
  int column;

  /// Of columns n to n + 7, then of n + 8 to n + 15.
  __device__ void fragments(unsigned (&to)[4], int k, int n) const {
    const int lane = warp_lane();
    load_tiles_transposed(
        to, tile.at(row + lane % 16, column + n + lane / 16 * 8) + k * Tile<T, kColumns>::kStride);
  }
  __device__ void values(float (&to)[2], int k, int n) const {
    const float2 pair = load_pair(tile.at(row + k, column + n + own_column(0)));
    to[0] = pair.x;
    to[1] = pair.y;
  }
  __device__ void advance() { row += 8; }
};

/// Right operand that is tile(row + n, column + k).
template <typename T, int kColumns>
struct RightTransposed {
  using Value = T;
  Tile<T, kColumns> tile;
  int row;
  int column;

  __device__ void fragments(unsigned (&to)[4], int k, int n) const {
    const int lane = warp_lane();
    load_tiles(
        to,
        tile.at(row + lane / 16 * 8 + lane % 8, column + k + lane / 8 % 2 * 8) +
            n * Tile<T, kColumns>::kStride);
  }
  __device__ void values(float (&to)[2], int k, int n) const {
    to[0] = *tile.at(row + n + own_column(0), column + k);
    to[1] = *tile.at(row + n + own_column(1), column + k);
  }
  __device__ void advance() { column += 8; }
};

/// Right operand that is the transpose of a block held in registers: element (k, n) is held(n, k).
template <typename T, int kRows, int kColumns>
struct RightHeld {
  using Value = T;
  Held<T, kRows, kColumns>& held;

  __device__ void fragments(unsigned (&to)[4], int k, int n) const {
    to[0] = held.pairs[n / 16][k / 8][0];
    to[1] = held.pairs[n / 16][k / 8 + 1][0];
    to[2] = held.pairs[n / 16][k / 8][1];
    to[3] = held.pairs[n / 16][k / 8 + 1][1];
  }
  __device__ void values(float (&to)[2], int k, int n) const {
    const int owner = own_column(0) * 4 + k / 2;
    const float value = held.values[n / 16][0][n % 16 / 8 * 2 + k % 2];
    to[0] = __shfl_sync(0xffffffffu, value, owner);
    to[1] = __shfl_sync(0xffffffffu, value, owner + 4);
  }
  __device__ void advance() { held.rotate(); }
};

/// The same of sums, rounded to T as they are read.
template <typename T, int kRows, int kColumns>
struct RightSums {
  using Value = T;
  WarpSums<kRows, kColumns>& sums;

  __device__ void fragments(unsigned (&to)[4], int k, int n) const {
    const float(&low)[4] = sums.values[n / 16][k / 8];
    const float(&high)[4] = sums.values[n / 16][k / 8 + 1];
    to[0] = pack_bf16(low[0], low[1]);
    to[1] = pack_bf16(high[0], high[1]);
    to[2] = pack_bf16(low[2], low[3]);
    to[3] = pack_bf16(high[2], high[3]);
  }
  __device__ void values(float (&to)[2], int k, int n) const {
    const int owner = own_column(0) * 4 + k / 2;
    const float value = sums.values[n / 16][0][n % 16 / 8 * 2 + k % 2];
    to[0] = __shfl_sync(0xffffffffu, value, owner);
    to[1] = __shfl_sync(0xffffffffu, value, owner + 4);
  }
  __device__ void advance() { sums.rotate(); }
};

template <typename T, int kColumns>
__device__ Left<T, kColumns> left(Tile<T, kColumns> tile, int row = 0, int column = 0) {
  return {tile, row, column};
}
template <typename T, int kColumns>
__device__ LeftTransposed<T, kColumns>
left_transposed(Tile<T, kColumns> tile, int row = 0, int column = 0) {
  return {tile, row, column};
}
template <typename T, int kRows, int kColumns>
__device__ LeftHeld<T, kRows, kColumns> left(Held<T, kRows, kColumns>& held) {
  return {held};
}
template <typename T, int kColumns>
__device__ Right<T, kColumns> right(Tile<T, kColumns> tile, int row = 0, int column = 0) {
  return {tile, row, column};
}
template <typename T, int kColumns>
__device__ RightTransposed<T, kColumns>
right_transposed(Tile<T, kColumns> tile, int row = 0, int column = 0) {
  return {tile, row, column};
}
template <typename T, int kRows, int kColumns>
__device__ RightHeld<T, kRows, kColumns> right_transposed(Held<T, kRows, kColumns>& held) {
  return {held};
}

template <typename T, int kRows, int kColumns>
__device__ RightSums<T, kRows, kColumns> right_transposed(WarpSums<kRows, kColumns>& sums) {
  return {sums};
}

/// Which elements of a left operand are not zero.
enum class Shape {
  kFull,
  kLower, ///< those with k <= m; what stands in blocks of 16 x 16 above the diagonal is not read
};

/// The product on the tensor units: sums += left right.
template <int kDepth, Shape shape, int kRows, int kColumns, class L, class R>
__device__ void multiply_bf16(
    WarpSums<kRows, kColumns>& sums,
    const L& left_operand,
    const R& right_operand,
    int columns) {
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    unsigned a[kRows / 16][4];
#pragma unroll
    for (int m = 0; m < kRows; m += 16) {
      if (shape == Shape::kFull || k <= m) {
        left_operand.fragment(a[m / 16], m, k);
      }
    }
#pragma unroll
    for (int n = 0; n < kColumns; n += 16) {
      if (n < columns) {
        unsigned b[4];
        right_operand.fragments(b, k, n);
#pragma unroll
        for (int m = 0; m < kRows; m += 16) {
          if (shape == Shape::kFull || k <= m) {
            multiply_add(sums.values[m / 16][n / 8], a[m / 16], {b[0], b[1]});
            multiply_add(sums.values[m / 16][n / 8 + 1], a[m / 16], {b[2], b[3]});
          }
        }
      }
    }
  }
}

/// Eight depths of the product in fp32, from where the operands stand, for columns [kFirst, kEnd).
template <int kFirst, int kEnd, int kRows, int kColumns, class L, class R>
__device__ void multiply_eight(
    WarpSums<kRows, kColumns>& sums,
    const L& left_operand,
    const R& right_operand,
    int first_row,
    int columns) {
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    float a[kRows / 16][2];
#pragma unroll
    for (int m = 0; m < kRows; m += 16) {
      if (m + 16 > first_row) {
        left_operand.values(a[m / 16], m, k);
      }
    }
#pragma unroll
    for (int n = kFirst; n < kEnd; n += 8) {
      if (n < columns) {
        float b[2];
        right_operand.values(b, k, n);
#pragma unroll
        for (int m = 0; m < kRows; m += 16) {
          if (m + 16 > first_row) {
            float(&block)[4] = sums.values[m / 16][n / 8];
            block[0] = fmaf(a[m / 16][0], b[0], block[0]);
            block[1] = fmaf(a[m / 16][0], b[1], block[1]);
            block[2] = fmaf(a[m / 16][1], b[0], block[2]);
            block[3] = fmaf(a[m / 16][1], b[1], block[3]);
          }
        }
      }
    }
  }
}

/// The product in fp32, each lane for the elements that it owns.
template <int kDepth, Shape shape, int kFirst = 0, int kRows, int kColumns, class L, class R>
__device__ void multiply_fp32(
    WarpSums<kRows, kColumns>& sums,
    const L& left_operand,
    const R& right_operand,
    int columns) {
  // More columns at once would want more registers for what is read ahead than there are.
  constexpr int kEnd = kColumns < kFirst + 64 ? kColumns : kFirst + 64;
  L left_part = left_operand;
  R right_part = right_operand;
  // Registers cannot be indexed at run time: the operands move on instead.
#pragma unroll 1
  for (int k = 0; k < kDepth; k += 8) {
    const int first_row = shape == Shape::kLower ? k / 16 * 16 : 0;
    multiply_eight<kFirst, kEnd>(sums, left_part, right_part, first_row, columns);
    left_part.advance();
    right_part.advance();
  }
  if constexpr (kEnd < kColumns) {
    multiply_fp32<kDepth, shape, kEnd>(sums, left_operand, right_operand, columns);
  }
}

/// sums += left right, over kDepth. Only the first `columns` (a multiple of 16, the same for all
/// lanes) columns of sums are touched. All lanes of the warp call it.
template <int kDepth, Shape shape = Shape::kFull, int kRows, int kColumns, class L, class R>
__device__ void multiply(
    WarpSums<kRows, kColumns>& sums,
    const L& left_operand,
    const R& right_operand,
    int columns = kColumns) {
  static_assert(kDepth % 16 == 0);
  if constexpr (sizeof(typename L::Value) == 2) {
    multiply_bf16<kDepth, shape>(sums, left_operand, right_operand, columns);
  } else {
    multiply_fp32<kDepth, shape>(sums, left_operand, right_operand, columns);
  }
}

} // namespace baton
