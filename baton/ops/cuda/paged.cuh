// SPDX-License-Identifier: Apache-2.0
// What the kernels of attention over pages share: which rows and keys a block works on, where keys
// lie, and how the sums of its warps become a result.
//
// The rows of a sequence and a key head are its queries times the query heads that read the key
// head: row r is query r / group, head r % group of the key head. All rows of a block read a key
// once. Grid: x tiles of rows over all sequences, y key heads, z splits of the keys.
#pragma once

#include "baton/ops/cuda/paged_arguments.cuh"
#include "baton/ops/cuda/rows.cuh"

namespace baton {

constexpr int kPagedWarps = kPagedThreads / kWarpThreads;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kMinusInfinity = __builtin_bit_cast(float, 0xff800000u);

/// A block's share of the work.
struct PagedTile {
  int sequence;
  int first_token; ///< of the sequence, among all queries
  int first_row;   ///< within the sequence
  int rows;        ///< 0: nothing to do
  int past;        ///< keys before the sequence's first query
  int first_key;
  int last_key; ///< not after first_key: no keys in this split

  /// Keys that a row sees, from the sequence's first.
  __device__ int visible(int row, int group) const { return past + (first_row + row) / group + 1; }
};

/// The sequence that this block's tile belongs to, -1 if none. Tiles of sequence b begin at
/// starts[b] * group / kRows + b, which leaves room for a last tile that is not full, so that the
/// host need not know any sequence's length. All threads of the block call it.
template <int kRows>
__device__ int find_sequence(const PagedArguments& given) {
  __shared__ int found;
  if (threadIdx.x == 0) {
    found = -1;
  }
  __syncthreads();
  const int tile = blockIdx.x;
  for (int b = threadIdx.x; b < given.sequences; b += kPagedThreads) {
    const int here = given.starts[b] * given.group / kRows + b;
    const int next = given.starts[b + 1] * given.group / kRows + b + 1;
    if (here <= tile && tile < next) {
      found = b;
    }
  }
  __syncthreads();
  return found;
}

/// The tile of this block, of kRows rows. Splits cut the keys that a sequence has into even parts
/// of whole kStep keys, not less than floor_keys. All threads of the block call it.
template <int kRows, int kStep>
__device__ PagedTile find_tile(const PagedArguments& given) {
  PagedTile tile = {};
  tile.sequence = find_sequence<kRows>(given);
  if (tile.sequence < 0) {
    return tile;
  }
  tile.first_token = given.starts[tile.sequence];
  const int queries = given.starts[tile.sequence + 1] - tile.first_token;
  const int first_tile = tile.first_token * given.group / kRows + tile.sequence;
  tile.first_row = (static_cast<int>(blockIdx.x) - first_tile) * kRows;
  tile.rows = max(0, min(kRows, queries * given.group - tile.first_row));
  if (tile.rows == 0) {
    return tile;
  }
  const long long capacity = static_cast<long long>(given.table_width) * given.page_size;
  const long long length = min(static_cast<long long>(given.kv_lengths[tile.sequence]), capacity);
  tile.past = static_cast<int>(length) - queries;
  const long long splits = gridDim.z;
  const long long even =
      max((length + splits - 1) / splits, static_cast<long long>(given.floor_keys));
  const long long step = (even + kStep - 1) / kStep * kStep;
  const long long first = min(blockIdx.z * step, max(length, 0ll));
  const long long seen = tile.visible(tile.rows - 1, given.group);
  tile.first_key = static_cast<int>(first);
  tile.last_key = static_cast<int>(min(min(first + step, length), seen));
  return tile;
}

/// Where a key lies in its pages: page -1 where nothing may be read.
struct KeyPlace {
  int page;
  int offset;
};

/// Keys and values of one sequence and one key head.
template <typename T>
struct PagedKeys {
  const T* k; ///< of the key head in page 0
  const T* v;
  const int* table; ///< the sequence's pages

  __device__ PagedKeys(const PagedArguments& given, int sequence)
      : k(static_cast<const T*>(given.k_pages) + blockIdx.y * given.k_head_stride),
        v(static_cast<const T*>(given.v_pages) + blockIdx.y * given.v_head_stride),
        table(given.page_table + static_cast<long long>(sequence) * given.table_width) {}

  __device__ KeyPlace place(const PagedArguments& given, int key, int last_key) const {
    if (key >= last_key) {
      return {-1, 0};
    }
    const int page = table[key / given.page_size];
    return {page < given.pages ? page : -1, key % given.page_size};
  }
  __device__ const T* key(const PagedArguments& given, const KeyPlace& at) const {
    return k + at.page * given.k_page_stride + at.offset * given.k_token_stride;
  }
  __device__ const T* value(const PagedArguments& given, const KeyPlace& at) const {
    return v + at.page * given.v_page_stride + at.offset * given.v_token_stride;
  }
};

/// The query of a row of a tile.
template <typename T>
__device__ const T* query_of(const PagedArguments& given, const PagedTile& tile, int row) {
  const int in_sequence = tile.first_row + row;
  const long long token = tile.first_token + in_sequence / given.group;
  const int head = blockIdx.y * given.group + in_sequence % given.group;
  return static_cast<const T*>(given.q) + token * given.q_token_stride + head * given.q_head_stride;
}

/// A pack of a row's channels; sums are over all keys of this block.
template <typename T, int kPack>
__device__ void store_result(
    const PagedArguments& given,
    const PagedTile& tile,
    int row,
    int channel,
    const float (&sums)[kPack],
    float maximum,
    float sum) {
  const int in_sequence = tile.first_row + row;
  const long long token = tile.first_token + in_sequence / given.group;
  const long long heads = gridDim.y * given.group;
  const long long at = token * heads + blockIdx.y * given.group + in_sequence % given.group;
  if (gridDim.z == 1) {
    Pack<T, kPack> pack;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      pack.values[i] = static_cast<T>(sum > 0 ? sums[i] / sum : 0.0f);
    }
    store_pack(pack, static_cast<T*>(given.out) + at * given.channels + channel);
    return;
  }
  const long long place = blockIdx.z * given.tokens * heads + at;
  Pack<float, kPack> pack;
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    pack.values[i] = sums[i];
  }
  store_pack(pack, given.partials + place * given.channels + channel);
  if (channel == 0) {
    given.statistics[2 * place] = maximum;
    given.statistics[2 * place + 1] = sum;
  }
}

/// Adds up what kKeyWarps warps have of each row, warp by warp, and stores it. In shared memory, by
/// warp: sums of kWarpRows rows, kStride apart, their maxima and sums. Warps of the same rows stand
/// side by side. A barrier must come before.
template <typename T, int kWarpRows, int kKeyWarps, int kStride, int kPack>
__device__ void store_rows(
    const PagedArguments& given,
    const PagedTile& tile,
    const float* sums,
    const float* maxima,
    const float* sums_of_exp) {
  const int packs = given.channels / kPack;
  for (int i = threadIdx.x; i < tile.rows * packs; i += kPagedThreads) {
    const int row = i / packs;
    const int channel = i % packs * kPack;
    const int first = row / kWarpRows * kKeyWarps * kWarpRows + row % kWarpRows;
    float maximum = kMinusInfinity;
#pragma unroll
    for (int warp = 0; warp < kKeyWarps; ++warp) {
      maximum = fmaxf(maximum, maxima[first + warp * kWarpRows]);
    }
    float sum = 0;
    float values[kPack] = {};
#pragma unroll
    for (int warp = 0; warp < kKeyWarps; ++warp) {
      const int at = first + warp * kWarpRows;
      if (sums_of_exp[at] > 0) {
        const float factor = exp2f(maxima[at] - maximum);
        sum += sums_of_exp[at] * factor;
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          values[j] += sums[at * kStride + channel + j] * factor;
        }
      }
    }
    store_result<T, kPack>(given, tile, row, channel, values, maximum, sum);
  }
}

} // namespace baton
