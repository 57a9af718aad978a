// SPDX-License-Identifier: Apache-2.0
// The forward scan on sm_90a, for bf16 heads of 64 channels: as ssd.cu's, with products of a
// warpgroup and tiles that the tensor memory accelerator copies. With l_i the sum of dt A over a
// chunk's tokens up to i:
//   y_i = exp(l_i) h C_i + sum_{j <= i} (C_i . B_j) exp(l_i - l_j) dt_j x_j + D x_i
//   h <- exp(l_last) h + sum_j dt_j exp(l_last - l_j) x_j B_j^T
#include "baton/ops/cuda/hopper.cuh"
#include "baton/ops/cuda/shared_memory.cuh"
#include "baton/ops/cuda/ssd_chunks.cuh"

namespace baton {

/// Shared memory of a block of ssd_hopper. Tiles are panels of kQ rows and 128 bytes, in the
/// 128-byte swizzle.
template <int kN>
struct SsdHopperShared {
  static constexpr int kQ = kSsdChunk;
  static constexpr int kP = 64;
  static constexpr int kPanel = kQ * 128;
  static constexpr int kPanels = kN / 64; // of B, of C and of the state
  static constexpr int kStages = 2;

  struct Stage {
    unsigned char x[kPanel];
    unsigned char B[kPanels][kPanel];
    unsigned char C[kPanels][kPanel];
  };
  Stage stages[kStages];
  unsigned char state[kPanels][kPanel]; ///< [P, N], rounded: what comes into the chunk
  unsigned char y[kPanel];
  SsdTimes<kQ> times[kStages];
  float D[kP];
  SharedBarrier full[kStages];  ///< the tiles of a stage have come
  SharedBarrier timed[kStages]; ///< its time steps are there
  SharedBarrier empty[kStages]; ///< both are done with
};

/// What the host asks for, by the size of a panel: kHopperRest covers all that is no panel, and
/// where shared memory begins.
constexpr int kHopperRest = 5 << 10;
static_assert(
    sizeof(SsdHopperShared<128>) + 1024 <= 13 * SsdHopperShared<128>::kPanel + kHopperRest,
    "fits");

constexpr int kHopperConsumers = 128; // threads that multiply
constexpr int kHopperThreads = 256;
constexpr int kConsumerBarrier = 1;

/// The threads that multiply: warp w holds rows 16 w to 16 w + 15 of every product.
template <int kN>
struct SsdHopperConsumer {
  using Shared = SsdHopperShared<kN>;
  static constexpr int kQ = Shared::kQ;
  Shared& shared;
  const SsdSegment segment;
  const int chunks;
  float state[kN / 8][4]; // rows are channels
  float scores[kQ / 8][4];
  float y[8][4];
  unsigned weights[kQ / 16][4];
  unsigned x[kQ / 16][4]; // rows are channels; times what a token adds to the state

  __device__ static int row() {
    return static_cast<int>(threadIdx.x) / 4 % 8 + threadIdx.x / 32 * 16;
  }
  __device__ static int pair() { return static_cast<int>(threadIdx.x) % 4 * 2; }
  __device__ int left(int chunk) const { return segment.tokens - chunk * kQ; }

  /// Where this lane's row of four 8 x 8 tiles begins: the upper and lower 8 rows of the warp's at
  /// columns 8 n, then those at 8 (n + 1). As load_tiles and store_tiles want it.
  __device__ static unsigned tiles_row(int n) {
    const int lane = threadIdx.x % 32;
    return swizzled(static_cast<int>(threadIdx.x) / 32 * 16 + lane % 16, n + lane / 16);
  }

  /// Rounds the state into its tile.
  __device__ void put_state() {
#pragma unroll
    for (int n = 0; n < kN / 8; n += 2) {
      const unsigned rounded[4] = {
          pack_bf16(state[n][0], state[n][1]),
          pack_bf16(state[n][2], state[n][3]),
          pack_bf16(state[n + 1][0], state[n + 1][1]),
          pack_bf16(state[n + 1][2], state[n + 1][3])};
      store_tiles(rounded, shared.state[n / 8] + tiles_row(n % 8));
    }
    publish_to_units();
  }

  /// Zeros in the rows of a stage that belong to other sequences, which may hold anything.
  __device__ void clear_beyond(int chunk) {
    if (left(chunk) >= kQ) {
      return;
    }
    auto* rows = reinterpret_cast<unsigned char*>(&shared.stages[chunk % 2]);
    constexpr int kRows = static_cast<int>(sizeof(typename Shared::Stage)) / 128;
    for (int i = threadIdx.x; i < kRows * 8; i += kHopperConsumers) {
      if (i / 8 % kQ >= left(chunk)) {
        *reinterpret_cast<uint4*>(rows + i * 16) = uint4{0, 0, 0, 0};
      }
    }
    publish_to_units();
    named_barrier(kConsumerBarrier, kHopperConsumers);
  }

  /// Starts scores = C B^T.
  __device__ void start_scores(int chunk) {
    const auto& stage = shared.stages[chunk % 2];
    begin_products();
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      multiply_tiles(
          scores, operand(stage.C[k / 4]) + k % 4 * 2, operand(stage.B[k / 4]) + k % 4 * 2, k == 0);
    }
    commit_products();
  }

  /// Starts y = C h^T.
  __device__ void start_outputs(int chunk) {
    const auto& stage = shared.stages[chunk % 2];
    begin_products();
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      multiply_tiles(
          y, operand(stage.C[k / 4]) + k % 4 * 2, operand(shared.state[k / 4]) + k % 4 * 2, k == 0);
    }
    commit_products();
  }

  /// weights = scores exp(l_i - l_j) dt_j for j <= i.
  __device__ void weigh(const SsdTimes<kQ>& times) {
    const int rows[2] = {row(), row() + 8};
    const float high[2] = {times.high[rows[0]], times.high[rows[1]]};
    const float low[2] = {times.low[rows[0]], times.low[rows[1]]};
#pragma unroll
    for (int k = 0; k < kQ / 8; ++k) {
      const int j = k * 8 + pair();
      const float2 high_j = *reinterpret_cast<const float2*>(&times.high[j]);
      const float2 low_j = *reinterpret_cast<const float2*>(&times.low[j]);
      const float2 step_j = *reinterpret_cast<const float2*>(&times.step[j]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float decay = fast_exp2((high[half] - high_j.x) + (low[half] - low_j.x));
        const float next_decay = fast_exp2((high[half] - high_j.y) + (low[half] - low_j.y));
        weights[k / 2][k % 2 * 2 + half] = pack_bf16(
            j <= rows[half] ? scores[k][2 * half] * (decay * step_j.x) : 0.0f,
            j + 1 <= rows[half] ? scores[k][2 * half + 1] * (next_decay * step_j.y) : 0.0f);
      }
    }
  }

  /// Reads x of a chunk as the left operand of the state's product.
  __device__ void hold_x(int chunk, const SsdTimes<kQ>& times) {
    const int lane = threadIdx.x % 32;
    const auto scaled = [](unsigned values, float2 by) {
      return pack_bf16(
          __uint_as_float(values << 16) * by.x, __uint_as_float(values & 0xffff0000u) * by.y);
    };
#pragma unroll
    for (int k = 0; k < kQ / 16; ++k) {
      const int token = k * 16 + lane / 16 * 8 + lane % 8;
      const int granule = static_cast<int>(threadIdx.x) / 32 * 2 + lane / 8 % 2;
      load_tiles_transposed(x[k], shared.stages[chunk % 2].x + swizzled(token, granule));
      const float2 first = *reinterpret_cast<const float2*>(&times.input[k * 16 + pair()]);
      const float2 later = *reinterpret_cast<const float2*>(&times.input[k * 16 + pair() + 8]);
      x[k][0] = scaled(x[k][0], first);
      x[k][1] = scaled(x[k][1], first);
      x[k][2] = scaled(x[k][2], later);
      x[k][3] = scaled(x[k][3], later);
    }
  }

  /// y + D x, rounded, into the tile of y.
  __device__ void put_outputs(int chunk) {
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      unsigned skipped[4];
      load_tiles(skipped, shared.stages[chunk % 2].x + tiles_row(n));
      unsigned rounded[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 D = *reinterpret_cast<const float2*>(&shared.D[(n + i / 2) * 8 + pair()]);
        const float(&columns)[4] = y[n + i / 2];
        rounded[i] = pack_bf16(
            fmaf(D.x, __uint_as_float(skipped[i] << 16), columns[i % 2 * 2]),
            fmaf(D.y, __uint_as_float(skipped[i] & 0xffff0000u), columns[i % 2 * 2 + 1]));
      }
      store_tiles(rounded, shared.y + tiles_row(n));
    }
    publish_to_units();
  }

  /// The first rows of the tile of y to memory, where a whole tile would reach another sequence's.
  __device__ void copy_outputs(int chunk, __nv_bfloat16* to, long long stride) const {
    for (int i = threadIdx.x; i < left(chunk) * 8; i += kHopperConsumers) {
      *reinterpret_cast<uint4*>(to + i / 8 * stride + i % 8 * 8) =
          *reinterpret_cast<const uint4*>(shared.y + swizzled(i / 8, i % 8));
    }
  }

  __device__ void
  walk(const SsdLayout& layout, int head, __nv_bfloat16* out, const TileMap& y_map) {
    put_state();
    if (chunks == 0) {
      return;
    }
    named_barrier(kConsumerBarrier, kHopperConsumers);
    shared.full[0].wait(0);
    clear_beyond(0);
    start_scores(0);
    wait_for_products<0>();
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const SsdTimes<kQ>& times = shared.times[chunk % 2];
      const int next = min(chunk + 1, chunks - 1); // the last scores are made twice
      start_outputs(chunk);
      shared.timed[chunk % 2].wait(chunk / 2 % 2);
      weigh(times);
      const float from_start[2] = {times.from_start[row()], times.from_start[row() + 8]};
      wait_for_products<0>();
#pragma unroll
      for (auto& columns : y) {
        columns[0] *= from_start[0];
        columns[1] *= from_start[0];
        columns[2] *= from_start[1];
        columns[3] *= from_start[1];
      }
      begin_products();
#pragma unroll
      for (int k = 0; k < kQ / 16; ++k) {
        multiply_held(y, weights[k], operand(shared.stages[chunk % 2].x + k * 2048));
      }
      commit_products();
      hold_x(chunk, times);
#pragma unroll
      for (auto& columns : state) {
#pragma unroll
        for (float& value : columns) {
          value *= times.decay;
        }
      }
      begin_products();
#pragma unroll
      for (int k = 0; k < kQ / 16; ++k) {
        multiply_held(
            state, x[k], operand(shared.stages[chunk % 2].B[0] + k * 2048, Shared::kPanel));
      }
      commit_products();
      shared.full[next % 2].wait(next / 2 % 2);
      if (next > chunk) {
        clear_beyond(next);
      }
      wait_for_products<1>();
      start_scores(next);
      if (threadIdx.x == 0) {
        wait_for_stores();
      }
      named_barrier(kConsumerBarrier, kHopperConsumers); // the tile of y has been read
      put_outputs(chunk);
      wait_for_products<1>();
      put_state();
      named_barrier(kConsumerBarrier, kHopperConsumers);
      if (threadIdx.x == 0) {
        shared.empty[chunk % 2].arrive();
      }
      const long long token = segment.first + chunk * kQ;
      if (left(chunk) < kQ) {
        const long long stride = static_cast<long long>(layout.heads) * 64;
        copy_outputs(chunk, out + token * stride + head * 64, stride);
      } else if (threadIdx.x == 0) {
        store_tile(shared.y, y_map, head * 64, static_cast<int>(token));
      }
      wait_for_products<0>();
    }
  }
};

/// Starts the copies of a chunk's tiles as soon as their stage is free. One thread.
template <int kN>
__device__ void bring_tiles(
    SsdHopperShared<kN>& shared,
    const SsdSegment& segment,
    int chunks,
    int head,
    int group,
    const TileMap& x_map,
    const TileMap& B_map,
    const TileMap& C_map) {
  using Shared = SsdHopperShared<kN>;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    auto& stage = shared.stages[chunk % 2];
    SharedBarrier& full = shared.full[chunk % 2];
    if (chunk >= 2) {
      shared.empty[chunk % 2].wait((chunk / 2 - 1) % 2);
    }
    const int row = static_cast<int>(segment.first) + chunk * Shared::kQ;
    full.arrive_expecting(sizeof(stage));
    for (int panel = 0; panel < Shared::kPanels; ++panel) {
      load_tile(stage.C[panel], C_map, group * kN + panel * 64, row, full);
      load_tile(stage.B[panel], B_map, group * kN + panel * 64, row, full);
    }
    load_tile(stage.x, x_map, head * 64, row, full);
  }
}

/// Makes the time steps of every second chunk, from `first` on. One warp.
template <int kN>
__device__ void keep_time(
    SsdHopperShared<kN>& shared,
    const SsdTimeInputs& time,
    const SsdSegment& segment,
    int chunks,
    int head,
    int first) {
  constexpr int kQ = SsdHopperShared<kN>::kQ;
  const auto read = [&](int chunk) {
    return read_steps<kQ>(
        time,
        head,
        segment.first + static_cast<long long>(chunk) * kQ,
        chunk < chunks ? segment.tokens - chunk * kQ : 0);
  };
  SsdRawSteps<kQ> raw = read(first);
  for (int chunk = first; chunk < chunks; chunk += 2) {
    if (chunk >= 2) {
      shared.empty[first].wait((chunk / 2 - 1) % 2);
    }
    const SsdRawSteps<kQ> later = read(chunk + 2);
    write_times(shared.times[first], time, head, raw, segment.tokens - chunk * kQ);
    shared.timed[first].arrive();
    raw = later;
  }
}

/// One block for a head in a segment: block segment H + head. Four warps multiply, two keep time
/// and one thread brings tiles. states, if not null, receives the state that leaves each segment.
template <int kN>
__global__ void __launch_bounds__(kHopperThreads, 2) ssd_hopper(
    SsdLayout layout,
    SsdTimeInputs time,
    SsdForwardInputs in,
    __nv_bfloat16* y,
    float* states,
    const __grid_constant__ TileMap x_map,
    const __grid_constant__ TileMap B_map,
    const __grid_constant__ TileMap C_map,
    const __grid_constant__ TileMap y_map) {
  using Shared = SsdHopperShared<kN>;
  constexpr int kP = Shared::kP;
  // Tiles in the 128-byte swizzle begin at multiples of 1024.
  const unsigned begins = shared_address(dynamic_shared());
  Shared& shared =
      *reinterpret_cast<Shared*>(dynamic_shared() + ((begins + 1023) / 1024 * 1024 - begins));
  const int head = blockIdx.x % layout.heads;
  const int number = blockIdx.x / layout.heads;
  const SsdSegment segment = find_segment(layout, number);
  if (!segment.exists) {
    return;
  }
  const int chunks = (segment.tokens + Shared::kQ - 1) / Shared::kQ;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared::kStages; ++i) {
      shared.full[i].start(1);
      shared.timed[i].start(kWarpThreads);
      shared.empty[i].start(1);
    }
    publish_barriers();
  }
  if (threadIdx.x < kP) {
    shared.D[threadIdx.x] =
        in.D.data == nullptr
            ? 0.0f
            : in.D.data[head * in.D.head_stride + threadIdx.x * in.D.channel_stride];
  }
  __syncthreads();
  if (threadIdx.x < kHopperConsumers) {
    take_registers<208>();
    const int channel = static_cast<int>(threadIdx.x) / kWarpThreads * 16;
    WarpSums<16, kN> initial = load_state<16, kN>(in.incoming, layout, number, head, channel, 0);
    SsdHopperConsumer<kN> consumer{shared, segment, chunks};
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        consumer.state[n][i] = initial.values[0][n][i];
      }
    }
    consumer.walk(layout, head, y, y_map);
    if (states != nullptr) {
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          initial.values[0][n][i] = consumer.state[n][i];
        }
      }
      store_rows(
          initial,
          state_at(states, layout, number, head, channel, 0),
          layout.state_dim,
          16,
          kN,
          true);
    }
    return;
  }
  give_registers<48>();
  const int warp = static_cast<int>(threadIdx.x - kHopperConsumers) / kWarpThreads;
  if (warp < 2) {
    keep_time(shared, time, segment, chunks, head, warp);
  } else if (threadIdx.x == kHopperThreads - 1) {
    const int group = head / (layout.heads / layout.groups);
    bring_tiles(shared, segment, chunks, head, group, x_map, B_map, C_map);
  }
}

} // namespace baton
