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
  return static_cast<int>(threadIdx.x % kWarpThreads);
}

/// Number of this warp in its block, which the compiler then knows to be one for all lanes.
__device__ inline int warp_index() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpThreads, 0);
}

/// Row within a 16 x 8 block of element i (0 to 3) of a lane, of this one by default.
__device__ inline int own_row(int i, int lane = warp_lane()) {
  return lane / 4 + i / 2 * 8;
}

/// Column within a 16 x 8 block of element i (0 to 3) of a lane, of this one by default.
__device__ inline int own_column(int i, int lane = warp_lane()) {
  return lane % 4 * 2 + i % 2;
}

__device__ inline float widened(float value) {
  return value;
}
__device__ inline float widened(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

/// Rows of kColumns (a power of two, 16 bytes or more) values in shared memory, at a multiple of
/// 128 bytes, so laid out that eight neighbouring rows have the same columns in different banks: in
/// bf16 the 16-byte granules of a row are permuted, in fp32, whose lanes read single values at
/// constant distances, rows are a granule longer.
template <typename T, int kColumns>
struct Tile {
  using Value = T;
  static constexpr bool kPermuted = sizeof(T) == 2;
  static constexpr int kGranule = 16 / static_cast<int>(sizeof(T)); ///< values of a granule
  static constexpr int kGranules = kColumns / kGranule;             ///< granules of a row
  static constexpr int kStride = kPermuted ? kColumns : kColumns + kGranule;

  T* data;

  /// Neighbours within a granule are neighbours in memory.
  __device__ T* at(int row, int column) const {
    if constexpr (!kPermuted) {
      return data + row * kStride + column;
    }
    // Only the granule within a line of 128 bytes changes places, so that addresses of columns 64
    // apart are a constant apart.
    constexpr int kRowsOfLine = kGranules >= 8 ? 1 : 8 / kGranules;
    constexpr int kMask = (kGranules >= 8 ? 8 : kGranules) - 1;
    return data + row * kStride + (column ^ (row / kRowsOfLine & kMask) * kGranule);
  }

  /// Values that `rows` rows take.
  __device__ static constexpr int size(int rows) { return rows * kStride; }
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
    constexpr int kAcross = Rows::kGranules < kThreads ? Rows::kGranules : kThreads;
    static_assert(kThreads % kAcross == 0 && Rows::kGranules % kAcross == 0);
    constexpr int kRowsAtOnce = kThreads / kAcross;
    int row = thread / kAcross;
    const T* source = from + row * stride + thread % kAcross * Rows::kGranule;
#pragma unroll 8
    for (int done = 0; done < kRows; done += kRowsAtOnce, row += kRowsAtOnce) {
#pragma unroll
      for (int across = 0; across < Rows::kGranules; across += kAcross) {
        if (kRows % kRowsAtOnce == 0 || row < kRows) {
          const int column = (across + thread % kAcross) * Rows::kGranule;
          const bool inside = row < rows && column < columns;
          copy_async(
              to.at(row, column),
              inside ? source + across * Rows::kGranule : from,
              inside ? 16 : 0);
        }
      }
      source += kRowsAtOnce * stride;
    }
    return;
  }
  constexpr int kAtOnce = kThreads == kWarpThreads ? 4 : 1; // a warp alone has the more to wait for
  static_assert(kRows * kColumns % (kAtOnce * kThreads) == 0);
#pragma unroll 1
  for (int i = thread; i < kRows * kColumns; i += kAtOnce * kThreads) {
    T values[kAtOnce];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int row = (i + n * kThreads) / kColumns;
      const int column = (i + n * kThreads) % kColumns;
      const bool inside = row < rows && column < columns;
      values[n] = inside ? from[row * stride + column] : static_cast<T>(0.0f);
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      *to.at((i + n * kThreads) / kColumns, (i + n * kThreads) % kColumns) = values[n];
    }
  }
}

/// Moves each block of eight columns to where the one before it was, the first to the end.
/// Registers cannot be indexed at run time: a loop that takes the first block each time stands for
/// that.
template <int kBlockRows, int kBlocks>
__device__ void rotate_columns(float (&values)[kBlockRows][kBlocks][4]) {
#pragma unroll
  for (auto& row : values) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float first = row[0][i];
#pragma unroll
      for (int n = 1; n < kBlocks; ++n) {
        row[n - 1][i] = row[n][i];
      }
      row[kBlocks - 1][i] = first;
    }
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

  __device__ void rotate() {
    rotate_columns(values);
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
__device__ inline float2 load_pair(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}
__device__ inline float2 load_pair(const __nv_bfloat16* from) {
  const unsigned pair = *reinterpret_cast<const unsigned*>(from);
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}
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

/// sums = from[i * stride + j] where i < rows and j < columns, and 0 elsewhere. `packed` says that
/// `from` and stride are multiples of 16 bytes.
template <int kRows, int kColumns>
__device__ void read_rows(
    WarpSums<kRows, kColumns>& sums,
    const float* from,
    long long stride,
    int rows,
    int columns,
    bool packed) {
  if (!packed || rows < kRows || columns < kColumns) {
    // The loop stays rolled, since bounds of all columns would take as many registers.
#pragma unroll 1
    for (int n = 0; n < kColumns; n += 8) {
#pragma unroll
      for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = m * 16 + own_row(i);
          const int column = n + own_column(i);
          sums.values[m][0][i] =
              row < rows && column < columns ? from[row * stride + column] : 0.0f;
        }
      }
      sums.rotate();
    }
    return;
  }
#pragma unroll
  for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const float* row = from + (m * 16 + own_row(i)) * stride + own_column(0);
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        const float2 pair = load_pair(row + n * 8);
        sums.values[m][n][i] = pair.x;
        sums.values[m][n][i + 1] = pair.y;
      }
    }
  }
}

/// What store_rows() does with rows that are no whole packs.
template <int kRows, int kColumns, typename Out>
__device__ void
store_odd_rows(WarpSums<kRows, kColumns>& sums, Out* to, int stride, int rows, int columns) {
#pragma unroll 1
  for (int n = 0; n < kColumns; n += 8) {
    Out* at = to + n + own_column(0);
    const bool first = n + own_column(0) < columns;
    const bool second = n + own_column(1) < columns;
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const int row = m * 16 + own_row(i);
        if (row < rows) {
          if (first) {
            at[row * stride] = static_cast<Out>(sums.values[m][0][i]);
          }
          if (second) {
            at[row * stride + 1] = static_cast<Out>(sums.values[m][0][i + 1]);
          }
        }
      }
    }
    sums.rotate();
  }
}

/// Element (i, j) of sums, rounded to Out, to to[i * stride + j] where i < rows and j < columns.
/// kRows rows take less than 2^31
/// values. `packed` says that `to` and stride are multiples of 16 bytes. All lanes call it; sums
/// are the same after it as before.
template <int kRows, int kColumns, typename Out>
__device__ void store_rows(
    WarpSums<kRows, kColumns>& sums,
    Out* to,
    int stride,
    int rows,
    int columns,
    bool packed) {
  if (!packed || columns < kColumns) {
    store_odd_rows(sums, to, stride, rows, columns);
    return;
  }
  if constexpr (sizeof(Out) == 2) {
    // After the exchange lanes 0 and 1 of four have their upper row, lanes 2 and 3 the lower one.
    const int part = warp_lane() % 4;
    Out* at = to + part % 2 * 8;
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
      const int row = m * 16 + own_row(0) + part / 2 * 8;
#pragma unroll
      for (int n = 0; n < kColumns / 8; n += 2) {
        const float(&first)[4] = sums.values[m][n];
        const float(&second)[4] = sums.values[m][n + 1];
        unsigned words[4] = {
            pack_bf16(first[0], first[1]),
            pack_bf16(second[0], second[1]),
            pack_bf16(first[2], first[3]),
            pack_bf16(second[2], second[3])};
        transpose_words(words);
        if (row < rows) {
          *reinterpret_cast<uint4*>(at + row * stride + n * 8) =
              uint4{words[0], words[1], words[2], words[3]};
        }
      }
    }
  } else {
    Out* at = to + own_column(0);
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const int row = m * 16 + own_row(i);
        if (row < rows) {
#pragma unroll
          for (int n = 0; n < kColumns / 8; ++n) {
            store_pair(at + row * stride + n * 8, sums.values[m][n][i], sums.values[m][n][i + 1]);
          }
        }
      }
    }
  }
}

} // namespace baton
