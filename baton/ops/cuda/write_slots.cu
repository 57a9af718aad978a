// SPDX-License-Identifier: Apache-2.0
// Stores the states of a batch in the slots of a cache, in the cache's dtype.
#include "baton/ops/cuda/rows.cuh"
#include "baton/ops/cuda/widen.cuh"

namespace baton {

constexpr int kSlotPacks = 4; // of a thread

template <typename T, int kPack>
__device__ void convert(const Pack<T, kPack>& from, Pack<T, kPack>& to) {
  to = from;
}

/// By way of fp32, as on the CPU.
template <typename From, typename To, int kPack>
__device__ void convert(const Pack<From, kPack>& from, Pack<To, kPack>& to) {
  float wide[kPack];
  widen(from, wide);
  narrow(wide, to);
}

/// A block takes kRowThreads * kSlotPacks packs of one row; `blocks` of them take a row.
template <typename From, typename To, int kPack>
__global__ void __launch_bounds__(kRowThreads) write_slots(
    const From* values,
    const int* slots_B,
    To* cache,
    long long row_size,
    long long value_stride,
    long long cache_stride,
    long long slots,
    int blocks) {
  const long long b = blockIdx.x / blocks;
  const int slot = slots_B[b];
  if (slot < 0 || slot >= slots) {
    return;
  }
  const From* from = values + b * value_stride;
  To* to = cache + slot * cache_stride;
  const long long packs = row_size / kPack;
  const long long first =
      static_cast<long long>(blockIdx.x % blocks) * (kRowThreads * kSlotPacks) + threadIdx.x;
  Pack<From, kPack> in[kSlotPacks];
#pragma unroll
  for (int i = 0; i < kSlotPacks; ++i) {
    const long long pack = min(first + i * kRowThreads, packs - 1);
    in[i] = load_pack<From, kPack>(from + pack * kPack);
  }
#pragma unroll
  for (int i = 0; i < kSlotPacks; ++i) {
    const long long pack = first + i * kRowThreads;
    if (pack < packs) {
      Pack<To, kPack> out;
      convert(in[i], out);
      store_pack(out, to + pack * kPack);
    }
  }
}

} // namespace baton
