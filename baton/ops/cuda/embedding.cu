// SPDX-License-Identifier: Apache-2.0
// The gradient of an embedding: rows of dout add up by token id. The ids come sorted, which gives
// every id a run of rows; a block takes a chunk of kChunkRows of them in their order. A run that
// ends within a chunk that it began in is done; others leave a partial sum in each of their chunks,
// and a second kernel adds those in order.
#include "baton/ops/cuda/rows.cuh"

namespace baton {

constexpr int kChunkRows = 32;

/// Ids of a chunk, and those beside it (-1 at the ends).
struct ChunkIds {
  int first; ///< of the chunk's rows, among all
  int count;
  int before;
  int after;

  __device__ ChunkIds(const int* ids, int chunk, int tokens) {
    first = chunk * kChunkRows;
    count = min(kChunkRows, tokens - first);
    before = first > 0 ? ids[first - 1] : -1;
    after = first + count < tokens ? ids[first + count] : -1;
  }
};

/// Rounds the sums of a run into the row of its id. An id out of range, which is the caller's
/// mistake, has none.
template <typename T, int kPack>
__device__ void store_sums(
    const Pack<Sum<T>, kPack>& sums,
    T* dweight,
    int id,
    long long vocabulary,
    int channels,
    int channel) {
  if (id < 0 || id >= vocabulary) {
    return;
  }
  Pack<T, kPack> out;
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    out.values[j] = static_cast<T>(sums.values[j]);
  }
  store_pack(out, dweight + id * static_cast<long long>(channels) + channel);
}

/// partials [chunks, 2, channels]: of the run that came from the chunk before, and of the one that
/// began here and goes on. Grid: x chunks, y parts of the channels.
template <typename T, int kPack>
__global__ void __launch_bounds__(kRowThreads) embedding_chunks(
    const T* dout,
    const int* ids,
    const long long* order,
    T* dweight,
    Sum<T>* partials,
    long long dout_stride,
    int tokens,
    int channels,
    long long vocabulary) {
  using S = Sum<T>;
  constexpr int kRowsAtOnce = 4;
  __shared__ int ids_R[kChunkRows];
  __shared__ long long order_R[kChunkRows];
  const int chunk = blockIdx.x;
  const ChunkIds at(ids, chunk, tokens);
  if (threadIdx.x < at.count) {
    ids_R[threadIdx.x] = ids[at.first + threadIdx.x];
    order_R[threadIdx.x] = order[at.first + threadIdx.x];
  }
  __syncthreads();
  const int channel = (blockIdx.y * kRowThreads + threadIdx.x) * kPack;
  if (channel >= channels) {
    return;
  }
  Pack<S, kPack> sums = {};
  bool began_before = at.before == ids_R[0];
  for (int first = 0; first < at.count; first += kRowsAtOnce) {
    Pack<T, kPack> rows[kRowsAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      if (first + i < at.count) {
        rows[i] = load_pack<T, kPack>(dout + order_R[first + i] * dout_stride + channel);
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce && first + i < at.count; ++i) {
      const int row = first + i;
      const int id = ids_R[row];
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        sums.values[j] += static_cast<S>(rows[i].values[j]);
      }
      const bool last = row + 1 == at.count;
      if (!last && ids_R[row + 1] == id) {
        continue;
      }
      if (began_before || (last && at.after == id)) {
        const long long place = chunk * 2ll + (began_before ? 0 : 1);
        store_pack(sums, partials + place * channels + channel);
      } else {
        store_sums<T, kPack>(sums, dweight, id, vocabulary, channels, channel);
      }
      sums = {};
      began_before = false;
    }
  }
}

/// The number of chunks behind `chunk` that begin with `id`, which the last row of `chunk` has.
__device__ inline int chunks_of_run(const int* ids, int chunk, int chunks, int id) {
  int low = chunk + 1;
  int high = chunks;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (ids[middle * kChunkRows] == id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low - chunk - 1;
}

/// A block finishes the run that begins in its chunk and goes on behind it, if there is one.
template <typename T, int kPack>
__global__ void __launch_bounds__(kRowThreads) embedding_joins(
    const Sum<T>* partials,
    const int* ids,
    T* dweight,
    int tokens,
    int channels,
    long long vocabulary) {
  using S = Sum<T>;
  const int chunk = blockIdx.x;
  const ChunkIds at(ids, chunk, tokens);
  const int id = ids[at.first + at.count - 1];
  const bool began_before = at.before == id;
  const int channel = (blockIdx.y * kRowThreads + threadIdx.x) * kPack;
  if (at.after != id || began_before || channel >= channels) {
    return;
  }
  const int more = chunks_of_run(ids, chunk, gridDim.x, id);
  auto sums = load_pack<S, kPack>(partials + (chunk * 2ll + 1) * channels + channel);
#pragma unroll 4
  for (int i = 1; i <= more; ++i) {
    const auto other = load_pack<S, kPack>(partials + (chunk + i) * 2ll * channels + channel);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      sums.values[j] += other.values[j];
    }
  }
  store_sums<T, kPack>(sums, dweight, id, vocabulary, channels, channel);
}

} // namespace baton
