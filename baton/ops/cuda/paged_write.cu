// SPDX-License-Identifier: Apache-2.0
// Stores new keys and values into their pages, in the pages' dtype.
#include "baton/ops/cuda/paged_arguments.cuh"
#include "baton/ops/cuda/rows.cuh"

namespace baton {

template <typename From, typename To, int kPack>
__device__ void write_pack(const From* from, To* to) {
  const auto in = load_pack<From, kPack>(from);
  Pack<To, kPack> out;
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    out.values[i] = static_cast<To>(in.values[i]);
  }
  store_pack(out, to);
}

/// The sequence of a token, at most the last one.
__device__ inline int sequence_of(const int* starts, int sequences, int token) {
  int low = 0;
  int high = sequences - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (starts[middle + 1] > token) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

/// A thread takes kPack channels of a key and of a value. A position without a page, which is the
/// caller's mistake, is not written.
template <typename From, typename To, int kPack>
__global__ void __launch_bounds__(kRowThreads) paged_write(PagedWriteArguments given) {
  const int packs = given.channels / kPack;
  const long long all = static_cast<long long>(given.tokens) * given.heads * packs;
  const long long index = static_cast<long long>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (index >= all) {
    return;
  }
  const int channel = static_cast<int>(index % packs) * kPack;
  const int head = static_cast<int>(index / packs % given.heads);
  const int token = static_cast<int>(index / packs / given.heads);
  const int sequence = sequence_of(given.starts, given.sequences, token);
  const long long position =
      static_cast<long long>(given.first_positions[sequence]) + token - given.starts[sequence];
  if (position < 0 || position >= static_cast<long long>(given.table_width) * given.page_size) {
    return;
  }
  const int page =
      given.page_table
          [static_cast<long long>(sequence) * given.table_width + position / given.page_size];
  if (page < 0 || page >= given.pages) {
    return;
  }
  const long long offset = position % given.page_size;
  write_pack<From, To, kPack>(
      static_cast<const From*>(given.k) + token * given.k_token_stride +
          head * given.k_head_stride + channel,
      static_cast<To*>(given.k_pages) + page * given.k_page_stride + offset * given.k_place_stride +
          head * given.k_page_head_stride + channel);
  write_pack<From, To, kPack>(
      static_cast<const From*>(given.v) + token * given.v_token_stride +
          head * given.v_head_stride + channel,
      static_cast<To*>(given.v_pages) + page * given.v_page_stride + offset * given.v_place_stride +
          head * given.v_page_head_stride + channel);
}

} // namespace baton
