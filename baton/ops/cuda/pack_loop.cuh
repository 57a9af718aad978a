// SPDX-License-Identifier: Apache-2.0
// Work on every pack of some rows by itself.
#pragma once

#include "baton/ops/cuda/pack_loop_shape.cuh"
#include "baton/ops/cuda/rows.cuh"

namespace baton {

/// The row and the first channel of a pack, counted through all rows.
template <int kPack>
struct PackPlace {
  long long row;
  long long channel;

  __device__ PackPlace(long long index, long long packs_of_row, long long all) {
    if (all <= 0xffffffffll) { // a 64-bit division takes several times as long
      const unsigned of_row = static_cast<unsigned>(packs_of_row);
      row = static_cast<unsigned>(index) / of_row;
      channel = (index - row * of_row) * kPack;
    } else {
      row = index / packs_of_row;
      channel = (index - row * packs_of_row) * kPack;
    }
  }
};

/// Calls op.store(row, channel, op.load(row, channel)) for every pack of `channels` channels of
/// each row. A thread takes kPacksOfThread packs, kRowThreads apart, and reads them before it
/// writes any.
template <int kPack, typename Op>
__device__ void for_packs(const Op& op, long long rows, long long channels) {
  const long long packs_of_row = channels / kPack;
  const long long all = rows * packs_of_row;
  const long long first =
      static_cast<long long>(blockIdx.x) * (kRowThreads * kPacksOfThread) + threadIdx.x;
  typename Op::In in[kPacksOfThread];
#pragma unroll
  for (int p = 0; p < kPacksOfThread; ++p) {
    if (first + p * kRowThreads < all) {
      const PackPlace<kPack> place(first + p * kRowThreads, packs_of_row, all);
      in[p] = op.load(place.row, place.channel);
    }
  }
#pragma unroll
  for (int p = 0; p < kPacksOfThread; ++p) {
    if (first + p * kRowThreads < all) {
      const PackPlace<kPack> place(first + p * kRowThreads, packs_of_row, all);
      op.store(place.row, place.channel, in[p]);
    }
  }
}

} // namespace baton
