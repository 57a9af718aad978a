// SPDX-License-Identifier: Apache-2.0
// Tiles in shared memory and sums in the registers of a warp, between which tile_product.cuh
// multiplies. A lane owns the same elements of the sums for bf16 and fp32: of every 16 x 8 block,
// those of the tensor unit's accumulators (mma.cuh), which own_row() and own_column() name.
#pragma once

#include <cuda_bf16.h>

#include "baton/ops/cuda/mma.cuh"
#include "baton/ops/cuda/rows.cuh"

namespace baton {

__device__ inline int warp_lane() {
  return static_cast<int>(threadIdx.x) % kWarpThreads;
}

/// Row within a 16 x 8 block of element i (0 to 3) of this lane.
__device__ inline int own_row(int i) {
  return warp_lane() / 4 + i / 2 * 8;
}

/// Column within a 16 x 8 block of element i (0 to 3) of this lane.
__device__ inline int own_column(int i) {
  return warp_lane() % 4 * 2 + i % 2;
}

__device__ inline float widened(float value) {
  return value;
}
__device__ inline float widened(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

/// Rows of kColumns (a power of two, 16 bytes or more) values in shared memory, dense, at a
/// multiple of 128 bytes. The 16-byte granules of a row are permuted so that eight neighbouring
/// rows have the same granule in different banks.
template <typename T, int kColumns>
struct Tile {
  using Value = T;
  static constexpr int kGranule = 16 / static_cast<int>(sizeof(T)); ///< values of a granule
  static constexpr int kGranules = kColumns / kGranule;             ///< granules of a row

  T* data;

  /// Neighbours within a granule are neighbours in memory.
  __device__ T* at(int row, int column) const {
    constexpr int kRowsOfLine = kGranules >= 8 ? 1 : 8 / kGranules;
    constexpr int kMask = (kGranules >= 8 ? 8 : kGranules) - 1;
    const int granule = (column / kGranule) ^ (row / kRowsOfLine & kMask);
    return data + row * kColumns + granule * kGranule + column % kGranule;
  }
  __device__ static constexpr unsigned bytes(int rows) {
    return static_cast<unsigned>(rows * kColumns) * static_cast<unsigned>(sizeof(T));
  }
};

/// Starts copying rows of global memory into the first kRows rows of `to`, with zeros beyond `rows`
/// and beyond `columns`. kThreads threads of the block call it, numbered by `thread`. `packed`
/// says that base, stride and columns are multiples of 16 bytes: then the copies are asynchronous
/// (commit_copies and wait_for_copies), otherwise they are done on return. A barrier must follow.
template <int kRows, int kThreads, typename T, int kColumns>
__device__ void load_rows(
    Tile<T, kColumns> to,
    const T* from,
    long long stride,
    int rows,
    int columns,
    bool packed,
    int thread) {
  using Rows = Tile<T, kColumns>;
  if (packed) {
    constexpr int kCopies = kRows * Rows::kGranules;
#pragma unroll 4
    for (int i = thread; i < kCopies; i += kThreads) {
      const int row = i / Rows::kGranules;
      const int column = i % Rows::kGranules * Rows::kGranule;
      const bool inside = row < rows && column < columns;
      copy_async(to.at(row, column), inside ? from + row * stride + column : from, inside ? 16 : 0);
    }
    return;
  }
#pragma unroll 4
  for (int i = thread; i < kRows * kColumns; i += kThreads) {
    const int row = i / kColumns;
    const int column = i % kColumns;
    const bool inside = row < rows && column < columns;
    *to.at(row, column) = inside ? from[row * stride + column] : static_cast<T>(0.0f);
  }
}

/// The sums of a warp: kRows x kColumns, spread over its lanes.
template <int kRows, int kColumns>
struct WarpSums {
  static_assert(kRows % 16 == 0 && kColumns % 16 == 0);
  float values[kRows / 16][kColumns / 8][4] = {};

  __device__ void scale(float factor) {
#pragma unroll
    for (auto& row : values) {
#pragma unroll
      for (auto& block : row) {
#pragma unroll
        for (float& value : block) {
          value *= factor;
        }
      }
    }
  }

  /// Multiplies each row by its factor; `factors` has one a row.
  __device__ void scale_rows(const float* factors) {
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
      const float upper = factors[m * 16 + own_row(0)];
      const float lower = factors[m * 16 + own_row(2)];
#pragma unroll
      for (auto& block : values[m]) {
        block[0] *= upper;
        block[1] *= upper;
        block[2] *= lower;
        block[3] *= lower;
      }
    }
  }
};

/// Two neighbours, at a multiple of their size.
__device__ inline void store_pair(float* to, float first, float second) {
  *reinterpret_cast<float2*>(to) = float2{first, second};
}
__device__ inline void store_pair(__nv_bfloat16* to, float first, float second) {
  *reinterpret_cast<unsigned*>(to) = pack_bf16(first, second);
}

/// tile(row + i, column + j) = element (i, j) of sums, rounded to T, for the first `columns` (a
/// multiple of 8).
template <int kRows, int kColumns, typename T, int kTileColumns>
__device__ void store_sums(
    const WarpSums<kRows, kColumns>& sums,
    Tile<T, kTileColumns> tile,
    int row,
    int column,
    int columns = kColumns) {
#pragma unroll
  for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      if (n * 8 < columns) {
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          store_pair(
              tile.at(row + m * 16 + own_row(i), column + n * 8 + own_column(i)),
              sums.values[m][n][i],
              sums.values[m][n][i + 1]);
        }
      }
    }
  }
}

/// The four lanes of a row exchange words: lane c receives word c of each, in their order.
__device__ inline void transpose_words(unsigned (&words)[4]) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool upper = (warp_lane() & step) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & step) == 0) {
        unsigned& low = words[i];
        unsigned& high = words[i + step];
        const unsigned other = __shfl_xor_sync(0xffffffffu, upper ? low : high, step);
        low = upper ? other : low;
        high = upper ? high : other;
      }
    }
  }
}

/// Element (i, j) of sums, rounded to Out, to to[i * stride + j] where i < rows and j < columns.
/// `packed` says that `to`, stride and columns are multiples of 16 bytes. All lanes call it.
template <int kRows, int kColumns, typename Out>
__device__ void store_rows(
    const WarpSums<kRows, kColumns>& sums,
    Out* to,
    long long stride,
    int rows,
    int columns,
    bool packed) {
#pragma unroll
  for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; n += 2) {
      const float(&first)[4] = sums.values[m][n];
      const float(&second)[4] = sums.values[m][n + 1];
      if (packed && sizeof(Out) == 2) {
        unsigned words[4] = {
            pack_bf16(first[0], first[1]),
            pack_bf16(second[0], second[1]),
            pack_bf16(first[2], first[3]),
            pack_bf16(second[2], second[3])};
        transpose_words(words);
        const int part = warp_lane() % 4;
        const int row = m * 16 + own_row(0) + part / 2 * 8;
        const int column = n * 8 + part % 2 * 8;
        if (row < rows && column < columns) {
          *reinterpret_cast<uint4*>(to + row * stride + column) =
              uint4{words[0], words[1], words[2], words[3]};
        }
        continue;
      }
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        const float* pair = i < 4 ? first + i : second + i - 4;
        const int row = m * 16 + own_row(i % 4);
        const int column = n * 8 + i / 4 * 8 + own_column(0);
        Out* at = to + row * stride + column;
        if (packed && row < rows && column < columns) {
          store_pair(at, pair[0], pair[1]);
        } else if (row < rows) {
          if (column < columns) {
            at[0] = static_cast<Out>(pair[0]);
          }
          if (column + 1 < columns) {
            at[1] = static_cast<Out>(pair[1]);
          }
        }
      }
    }
  }
}

} // namespace baton
