// SPDX-License-Identifier: Apache-2.0
// Attention of new tokens over keys and values in pages: products by tensor units for bf16, without
// them for fp32 and for heads that lie unevenly. Softmax and sums are fp32.
#include "baton/ops/cuda/mma.cuh"
#include "baton/ops/cuda/paged.cuh"
#include "baton/ops/cuda/shared_memory.cuh"

namespace baton {

/// The sums of one warp on tensor units: 16 rows against kKeys keys at a time.
template <int kHeadDim, int kKeys>
struct TileSums {
  static constexpr int kStride = kHeadDim + 8;
  float out[kHeadDim / 8][4] = {};
  float maximum[2] = {kMinusInfinity, kMinusInfinity}; // of row lane / 4 and the one eight below
  float sum[2] = {0, 0};                               // of this lane's columns

  /// scores += q k^T
  __device__ static void
  multiply(float (&scores)[kKeys / 8][4], const __nv_bfloat16* q, const __nv_bfloat16* k) {
    const int tile = threadIdx.x % kWarpThreads / 8;
    const int row = threadIdx.x % 8;
    const __nv_bfloat16* q_row = q + (row + tile % 2 * 8) * kStride + tile / 2 * 8;
    const __nv_bfloat16* k_row = k + (row + tile / 2 * 8) * kStride + tile % 2 * 8;
#pragma unroll
    for (int channel = 0; channel < kHeadDim; channel += 16) {
      LeftFragment left;
      load_tiles(left, q_row + channel);
#pragma unroll
      for (int key = 0; key < kKeys; key += 16) {
        unsigned right[4];
        load_tiles(right, k_row + key * kStride + channel);
        multiply_add(scores[key / 8], left, {right[0], right[1]});
        multiply_add(scores[key / 8 + 1], left, {right[2], right[3]});
      }
    }
  }

  /// Scores of keys from first_key become exp2(scale * score - maximum), 0 where a row does not see
  /// the key, and the sums so far come to the new maximum.
  __device__ void
  exponentials(float (&scores)[kKeys / 8][4], int first_key, const int (&visible)[2], float scale) {
    const int key = first_key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float highest = maximum[half];
#pragma unroll
      for (int i = 0; i < kKeys / 4; ++i) {
        float& score = scores[i / 2][2 * half + i % 2];
        score = key + i / 2 * 8 + i % 2 < visible[half] ? score * scale : kMinusInfinity;
        highest = fmaxf(highest, score);
      }
      highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 2));
      const float shift = highest == kMinusInfinity ? 0.0f : highest;
      const float factor = exp2f(maximum[half] - shift);
      maximum[half] = highest;
      sum[half] *= factor;
#pragma unroll
      for (int i = 0; i < kKeys / 4; ++i) {
        float& score = scores[i / 2][2 * half + i % 2];
        score = exp2f(score - shift);
        sum[half] += score;
      }
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        out[n][2 * half] *= factor;
        out[n][2 * half + 1] *= factor;
      }
    }
  }

  /// out += probabilities v
  __device__ void add(const float (&probabilities)[kKeys / 8][4], const __nv_bfloat16* v) {
    const int tile = threadIdx.x % kWarpThreads / 8;
    const int row = threadIdx.x % 8;
    const __nv_bfloat16* v_row = v + (row + tile % 2 * 8) * kStride + tile / 2 * 8;
#pragma unroll
    for (int key = 0; key < kKeys; key += 16) {
      const float(&near)[4] = probabilities[key / 8];
      const float(&far)[4] = probabilities[key / 8 + 1];
      const LeftFragment left = {
          pack_bf16(near[0], near[1]),
          pack_bf16(near[2], near[3]),
          pack_bf16(far[0], far[1]),
          pack_bf16(far[2], far[3])};
#pragma unroll
      for (int channel = 0; channel < kHeadDim; channel += 16) {
        unsigned right[4];
        load_tiles_transposed(right, v_row + key * kStride + channel);
        multiply_add(out[channel / 8], left, {right[0], right[1]});
        multiply_add(out[channel / 8 + 1], left, {right[2], right[3]});
      }
    }
  }

  /// Leaves 16 rows, kOutStride apart, with their maxima and sums.
  template <int kOutStride>
  __device__ void leave(float* rows, float* maxima, float* sums) const {
    const int row = threadIdx.x % kWarpThreads / 4;
    const int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[half];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      if (column == 0) {
        maxima[row + 8 * half] = maximum[half];
        sums[row + 8 * half] = total;
      }
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        const Pack<float, 2> pair = {out[n][2 * half], out[n][2 * half + 1]};
        store_pack(pair, rows + (row + 8 * half) * kOutStride + 8 * n + column);
      }
    }
  }
};

/// Brings tiles of kTile keys and values to shared memory, two under way at a time; zeros stand for
/// keys that are not there.
template <int kHeadDim, int kTile>
struct KeyPipeline {
  static constexpr int kStride = kHeadDim + 8;
  static constexpr int kChunks = kHeadDim / 8;
  PagedKeys<__nv_bfloat16> keys;
  const PagedTile& tile;
  __nv_bfloat16* stages;     // twice: kTile keys, then kTile values
  KeyPlace (*places)[kTile]; // of two tiles

  __device__ int tiles() const {
    return max(0, tile.last_key - tile.first_key + kTile - 1) / kTile;
  }
  __device__ const __nv_bfloat16* k(int n) const { return stages + n % 2 * 2 * kTile * kStride; }

  /// The place of this thread's key of tile n.
  __device__ KeyPlace place(const PagedArguments& given, int n) const {
    return keys.place(
        given, tile.first_key + n * kTile + static_cast<int>(threadIdx.x), tile.last_key);
  }
  __device__ void keep(int n, const KeyPlace& place) const {
    if (threadIdx.x < kTile) {
      places[n % 2][threadIdx.x] = place;
    }
  }

  /// Starts the copy of tile n, whose places are kept.
  __device__ void copy(const PagedArguments& given, int n) const {
    if (n < tiles()) {
      __nv_bfloat16* to = stages + n % 2 * 2 * kTile * kStride;
#pragma unroll 4
      for (int i = threadIdx.x; i < kTile * kChunks; i += kPagedThreads) {
        const int key = i / kChunks;
        const int channel = i % kChunks * 8;
        const KeyPlace kept = places[n % 2][key];
        const bool there = kept.page >= 0 && channel < given.channels;
        const KeyPlace from = there ? kept : KeyPlace{0, 0};
        const int at = there ? channel : 0;
        __nv_bfloat16* row = to + key * kStride + channel;
        copy_async(row, keys.key(given, from) + at, there ? 16 : 0);
        copy_async(row + kTile * kStride, keys.value(given, from) + at, there ? 16 : 0);
      }
    }
    commit_copies();
  }
};

/// Copies the queries of a tile into rows; zeros where there are none.
template <int kHeadDim, int kRows>
__device__ void
copy_queries(const PagedArguments& given, const PagedTile& tile, __nv_bfloat16* rows) {
  constexpr int kChunks = kHeadDim / 8;
  for (int i = threadIdx.x; i < kRows * kChunks; i += kPagedThreads) {
    const int row = i / kChunks;
    const int channel = i % kChunks * 8;
    Pack<__nv_bfloat16, 8> pack = {};
    if (row < tile.rows && channel < given.channels) {
      pack = load_pack<__nv_bfloat16, 8>(query_of<__nv_bfloat16>(given, tile, row) + channel);
    }
    store_pack(pack, rows + row * (kHeadDim + 8) + channel);
  }
}

/// Products by tensor units. kRowWarps warps take 16 rows each, the others the same rows over other
/// keys: 1 where sequences have few queries and 4 where they have many. Channels must be a multiple
/// of 8, kHeadDim at most; heads begin at multiples of 16 bytes.
template <int kHeadDim, int kRowWarps>
__global__ void __launch_bounds__(kPagedThreads) paged_attention_tiles(PagedArguments given) {
  constexpr int kKeyWarps = kPagedWarps / kRowWarps;
  constexpr int kRows = kPagedMmaRows * kRowWarps;
  constexpr int kTile = kPagedTileKeys<kHeadDim, kRowWarps>;
  constexpr int kKeys = kTile / kKeyWarps;
  constexpr int kStride = kHeadDim + 8;
  constexpr int kOutStride = kHeadDim + 4;
  static_assert(kPagedWarps * kPagedMmaRows * kOutStride * 4 <= 4 * kTile * kStride * 2, "fits");
  __shared__ KeyPlace places[2][kTile];
  __shared__ float maxima[kPagedWarps * kPagedMmaRows];
  __shared__ float sums[kPagedWarps * kPagedMmaRows];
  const PagedTile tile = find_tile<kRows, kTile>(given);
  if (tile.rows == 0) {
    return;
  }
  __nv_bfloat16* q_rows = reinterpret_cast<__nv_bfloat16*>(dynamic_shared());
  const KeyPipeline<kHeadDim, kTile> pipeline = {
      {given, tile.sequence}, tile, q_rows + kRows * kStride, places};
  const int warp = threadIdx.x / kWarpThreads;
  const int first_row = warp / kKeyWarps * kPagedMmaRows;
  const int first_key = warp % kKeyWarps * kKeys;
  const int row = first_row + threadIdx.x % kWarpThreads / 4;
  const int visible[2] = {
      min(tile.visible(row, given.group), tile.last_key),
      min(tile.visible(row + 8, given.group), tile.last_key)};
  TileSums<kHeadDim, kKeys> mine;

  pipeline.keep(0, pipeline.place(given, 0));
  pipeline.keep(1, pipeline.place(given, 1));
  copy_queries<kHeadDim, kRows>(given, tile, q_rows);
  __syncthreads();
  pipeline.copy(given, 0);
  for (int n = 0; n < pipeline.tiles(); ++n) {
    pipeline.copy(given, n + 1);
    // Asked for early, since an entry of the table takes its time to come.
    const KeyPlace next = pipeline.place(given, n + 2);
    wait_for_copies<1>();
    __syncthreads();
    if (first_row < tile.rows) {
      const __nv_bfloat16* k = pipeline.k(n) + first_key * kStride;
      float scores[kKeys / 8][4] = {};
      mine.multiply(scores, q_rows + first_row * kStride, k);
      mine.exponentials(scores, tile.first_key + n * kTile + first_key, visible, given.scale);
      mine.add(scores, k + kTile * kStride);
    }
    pipeline.keep(n, next);
    __syncthreads();
  }
  float* rows = reinterpret_cast<float*>(pipeline.stages);
  mine.template leave<kOutStride>(
      rows + warp * kPagedMmaRows * kOutStride,
      maxima + warp * kPagedMmaRows,
      sums + warp * kPagedMmaRows);
  __syncthreads();
  store_rows<__nv_bfloat16, kPagedMmaRows, kKeyWarps, kOutStride, 8>(
      given, tile, rows, maxima, sums);
}

/// The sum over the lanes of each of 2 kHalf values; lane i receives the (i % (2 kHalf))-th.
template <int kHalf>
__device__ float transposed_sum(float (&values)[kWarpThreads]) {
  const bool upper = (threadIdx.x & kHalf) != 0;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float keep = upper ? values[i + kHalf] : values[i];
    const float give = upper ? values[i] : values[i + kHalf];
    values[i] = keep + __shfl_xor_sync(kAllLanes, give, kHalf);
  }
  if constexpr (kHalf > 1) {
    return transposed_sum<kHalf / 2>(values);
  } else {
    return values[0];
  }
}

/// The sums of one warp without tensor units: 8 rows, whose channels its lanes share, against four
/// keys at a time. Lane i holds the softmax of row i % 8, over keys i / 8 of each four.
template <typename T, int kPack, int kPacks>
struct LaneSums {
  static constexpr int kValues = kPack * kPacks;
  static constexpr int kKeys = kWarpThreads / kPagedLaneRows;
  float q[kPagedLaneRows][kValues];
  float out[kPagedLaneRows][kValues] = {};
  float maximum = kMinusInfinity;
  float sum = 0;

  __device__ static int channel(int pack) {
    return (pack * kWarpThreads + static_cast<int>(threadIdx.x) % kWarpThreads) * kPack;
  }

  /// This lane's channels, zeros where `from` is null.
  __device__ static void load(const T* from, int channels, float (&to)[kValues]) {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      Pack<T, kPack> in = {};
      if (from != nullptr && channel(pack) < channels) {
        in = load_pack<T, kPack>(from + channel(pack));
      }
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        to[pack * kPack + i] = static_cast<float>(in.values[i]);
      }
    }
  }

  /// This lane's probability, from its score; brings the sums so far to the new maximum.
  __device__ float exponential(float score) {
    float highest = fmaxf(maximum, score);
    highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 8));
    highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 16));
    const float shift = highest == kMinusInfinity ? 0.0f : highest;
    const float factor = exp2f(maximum - shift);
    const float probability = exp2f(score - shift);
    maximum = highest;
    sum = sum * factor + probability;
#pragma unroll
    for (int row = 0; row < kPagedLaneRows; ++row) {
      const float of_row = __shfl_sync(kAllLanes, factor, row);
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        out[row][i] *= of_row;
      }
    }
    return probability;
  }

  /// This lane's product of its row with its one of four keys.
  __device__ float score(const float (&k)[kKeys][kValues]) const {
    float products[kWarpThreads];
#pragma unroll
    for (int i = 0; i < kWarpThreads; ++i) {
      products[i] = 0;
#pragma unroll
      for (int j = 0; j < kValues; ++j) {
        products[i] += q[i % kPagedLaneRows][j] * k[i / kPagedLaneRows][j];
      }
    }
    return transposed_sum<kWarpThreads / 2>(products);
  }

  /// out += probabilities v
  __device__ void add(float probability, const float (&v)[kKeys][kValues]) {
#pragma unroll
    for (int i = 0; i < kWarpThreads; ++i) {
      const float of_key = __shfl_sync(kAllLanes, probability, i);
#pragma unroll
      for (int j = 0; j < kValues; ++j) {
        out[i % kPagedLaneRows][j] += of_key * v[i / kPagedLaneRows][j];
      }
    }
  }

  /// Leaves 8 rows, kValues times 32 apart, with their maxima and sums.
  __device__ void leave(float* rows, float* maxima, float* sums) const {
    const int lane = threadIdx.x % kWarpThreads;
    float total = sum;
    total += __shfl_xor_sync(kAllLanes, total, 8);
    total += __shfl_xor_sync(kAllLanes, total, 16);
    if (lane < kPagedLaneRows) {
      maxima[lane] = maximum;
      sums[lane] = total;
    }
#pragma unroll
    for (int row = 0; row < kPagedLaneRows; ++row) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        rows[row * kValues * kWarpThreads + channel(i / kPack) + i % kPack] = out[row][i];
      }
    }
  }
};

/// Without tensor units: each warp takes 32 keys in turn. Channels: kPack * kPacks * 32 at most, a
/// multiple of kPack.
template <typename T, int kPack, int kPacks>
__global__ void __launch_bounds__(kPagedThreads) paged_attention_lanes(PagedArguments given) {
  using Sums = LaneSums<T, kPack, kPacks>;
  constexpr int kStride = Sums::kValues * kWarpThreads;
  __shared__ float maxima[kPagedWarps * kPagedLaneRows];
  __shared__ float sums[kPagedWarps * kPagedLaneRows];
  const PagedTile tile = find_tile<kPagedLaneRows, kPagedThreads>(given);
  if (tile.rows == 0) {
    return;
  }
  const PagedKeys<T> keys(given, tile.sequence);
  const int warp = threadIdx.x / kWarpThreads;
  const int lane = threadIdx.x % kWarpThreads;
  Sums mine;
#pragma unroll
  for (int row = 0; row < kPagedLaneRows; ++row) {
    const T* q = row < tile.rows ? query_of<T>(given, tile, row) : nullptr;
    Sums::load(q, given.channels, mine.q[row]);
  }
  const int visible = min(tile.visible(lane % kPagedLaneRows, given.group), tile.last_key);
  for (int first = tile.first_key + warp * kWarpThreads; first < tile.last_key;
       first += kPagedThreads) {
    const KeyPlace place = keys.place(given, first + lane, tile.last_key);
    for (int at = 0; at < kWarpThreads && first + at < tile.last_key; at += Sums::kKeys) {
      const T* values[Sums::kKeys]; // null: no such key
      float k[Sums::kKeys][Sums::kValues];
      float v[Sums::kKeys][Sums::kValues];
#pragma unroll
      for (int i = 0; i < Sums::kKeys; ++i) {
        KeyPlace from;
        from.page = __shfl_sync(kAllLanes, place.page, at + i);
        from.offset = __shfl_sync(kAllLanes, place.offset, at + i);
        values[i] = from.page >= 0 ? keys.value(given, from) : nullptr;
        Sums::load(from.page >= 0 ? keys.key(given, from) : nullptr, given.channels, k[i]);
        if constexpr (Sums::kValues <= 4) { // registers hold them beside the keys
          Sums::load(values[i], given.channels, v[i]);
        }
      }
      const bool sees = first + at + lane / kPagedLaneRows < visible;
      const float score = mine.score(k) * given.scale;
      const float probability = mine.exponential(sees ? score : kMinusInfinity);
#pragma unroll
      for (int i = 0; i < Sums::kKeys && Sums::kValues > 4; ++i) {
        Sums::load(values[i], given.channels, v[i]);
      }
      mine.add(probability, v);
    }
  }
  float* rows = reinterpret_cast<float*>(dynamic_shared());
  mine.leave(
      rows + warp * kPagedLaneRows * kStride,
      maxima + warp * kPagedLaneRows,
      sums + warp * kPagedLaneRows);
  __syncthreads();
  store_rows<T, kPagedLaneRows, kPagedWarps, kStride, kPack>(given, tile, rows, maxima, sums);
}

/// One block a row of [tokens, heads]: adds its splits in order.
template <typename T>
__global__ void __launch_bounds__(kPagedThreads)
    merge_splits(const float* partials, const float* statistics, T* out, int splits, int channels) {
  const long long rows = gridDim.x;
  const long long row = blockIdx.x;
  float maximum = kMinusInfinity;
#pragma unroll 4
  for (int split = 0; split < splits; ++split) {
    maximum = fmaxf(maximum, statistics[2 * (split * rows + row)]);
  }
  for (int channel = threadIdx.x; channel < channels; channel += kPagedThreads) {
    float value = 0;
    float sum = 0;
#pragma unroll 4
    for (int split = 0; split < splits; ++split) {
      const long long at = split * rows + row;
      // Both at once: NVRTC 13.0.88 reads the sum in place of the maximum where they are read
      // apart.
      const auto [of_split_maximum, of_split] = load_pack<float, 2>(statistics + 2 * at).values;
      const float factor = of_split > 0 ? exp2f(of_split_maximum - maximum) : 0.0f;
      sum += of_split * factor;
      value += partials[at * channels + channel] * factor;
    }
    out[row * channels + channel] = static_cast<T>(sum > 0 ? value / sum : 0.0f);
  }
}

} // namespace baton
