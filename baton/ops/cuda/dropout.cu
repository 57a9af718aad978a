// SPDX-License-Identifier: Apache-2.0
// Dropout with a mask that is a function of the key and the element's index, as on the CPU.
#include "baton/ops/cuda/rows.cuh"
#include "baton/ops/cuda/widen.cuh"

namespace baton {

/// Philox 4x32 with ten rounds, as `philox` of base/random.h.
__device__ inline void
philox(unsigned long long key, unsigned long long counter, unsigned (&words)[4]) {
  words[0] = static_cast<unsigned>(counter);
  words[1] = static_cast<unsigned>(counter >> 32);
  words[2] = 0;
  words[3] = 0;
  unsigned key_low = static_cast<unsigned>(key);
  unsigned key_high = static_cast<unsigned>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned long long first = 0xD2511F53ull * words[0];
    const unsigned long long second = 0xCD9E8D57ull * words[2];
    words[0] = static_cast<unsigned>(second >> 32) ^ words[1] ^ key_low;
    words[1] = static_cast<unsigned>(second);
    words[2] = static_cast<unsigned>(first >> 32) ^ words[3] ^ key_high;
    words[3] = static_cast<unsigned>(first);
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
}

/// A block takes kRowThreads packs of one row; `blocks` of them take a row. An element is dropped
/// whose 24 random bits are below the threshold. Packs larger than 1 begin at whole counters.
template <typename T, int kPack>
__global__ void __launch_bounds__(kRowThreads) dropout(
    const T* x,
    T* y,
    long long x_stride,
    long long channels,
    long long key,
    long long first_index,
    int threshold,
    double scale,
    int blocks) {
  using S = Sum<T>;
  const long long row = blockIdx.x / blocks;
  const long long channel =
      (static_cast<long long>(blockIdx.x % blocks) * kRowThreads + threadIdx.x) * kPack;
  if (channel >= channels) {
    return;
  }
  const auto in = load_pack<T, kPack>(x + row * x_stride + channel);
  const long long place = row * channels + channel;
  const unsigned long long index = static_cast<unsigned long long>(first_index + place);
  S values[kPack];
  widen(in, values);
#pragma unroll
  for (int i = 0; i < kPack; i += 4) {
    unsigned words[4];
    philox(static_cast<unsigned long long>(key), index / 4 + i / 4, words);
#pragma unroll
    for (int j = 0; j < 4 && i + j < kPack; ++j) {
      const unsigned word = kPack == 1 ? words[index % 4] : words[j];
      const S scaled = values[i + j] * static_cast<S>(scale);
      values[i + j] = static_cast<int>(word >> 8) < threshold ? S(0) : scaled;
    }
  }
  Pack<T, kPack> out;
  narrow(values, out);
  store_pack(out, y + place);
}

} // namespace baton
