// SPDX-License-Identifier: Apache-2.0
// The forward scan on sm_90a, for bf16 heads of 64 channels: as ssd.cu's, with products of a
// warpgroup and tiles that the tensor memory accelerator copies. With l_i the sum of dt A over a
// chunk's tokens up to i:
//   y_i = exp(l_i) h C_i + sum_{j <= i} (C_i . B_j) exp(l_i - l_j) dt_j x_j + D x_i
//   h <- exp(l_last) h + sum_j dt_j exp(l_last - l_j) x_j B_j^T
// and, gated, y_i silu(z_i) in place of y_i. x may be made by a convolution on the way.
#include "baton/ops/cuda/gates.cuh"
#include "baton/ops/cuda/launch_overlap.cuh"
#include "baton/ops/cuda/shared_memory.cuh"
#include "baton/ops/cuda/ssd_hopper.cuh"
#include "baton/ops/cuda/ssd_hopper_convolution.cuh"

namespace baton {

/// Shared memory of a block of ssd_hopper.
template <int kN>
struct SsdHopperShared {
  static constexpr int kPanels = kN / 64; // of B, of C and of the state
  static constexpr int kStages = 2;

  struct Stage {
    Panel x;
    Panel B[kPanels];
    Panel C[kPanels];
  };
  Stage stages[kStages];
  Panel state[kPanels]; ///< [P, N], rounded: what comes into the chunk
  Panel y;              ///< gated, first z
  SsdTimes<kSsdChunk> times[kStages];
  float D[kHeadColumns];
  float* leaving; ///< where the state goes at the end: kept here for want of registers; or null
  SharedBarrier full[kStages];      ///< the tiles of a stage have come
  SharedBarrier timed[kStages];     ///< its time steps are there
  SharedBarrier convolved[kStages]; ///< its x is convolved, where that is to be done
  SharedBarrier empty[kStages];     ///< all are done with
  SharedBarrier gate;               ///< z has come
};

static_assert(
    sizeof(SsdHopperShared<128>) + 1024 <= kHopperForwardPanels<128> * kPanelBytes + kHopperRest,
    "fits");

constexpr int kConsumerBarrier = 1;

/// The threads that multiply: warp w holds rows 16 w to 16 w + 15 of every product.
template <int kN, bool kGated, bool kConvolves>
struct SsdHopperConsumer {
  using Shared = SsdHopperShared<kN>;
  static constexpr int kQ = kSsdChunk;
  Shared& shared;
  const SsdSegment segment;
  const int chunks;
  float state[kN / 8][4]; // rows are channels
  float scores[kQ / 8][4];
  float y[8][4];
  HeldTokens weights;
  HeldTokens x; // rows are channels; times what a token adds to the state

  __device__ int left(int chunk) const { return segment.tokens - chunk * kQ; }

  /// Rounds the state into its tile.
  __device__ void put_state() {
    put_rows(state, shared.state);
    publish_to_units();
  }

  /// Zeros in the rows of a stage that belong to other sequences, which may hold anything.
  __device__ void clear_beyond(int chunk) {
    if (left(chunk) >= kQ) {
      return;
    }
    auto& stage = shared.stages[chunk % 2];
    clear_rows(&stage.x, sizeof(stage) / kPanelBytes, left(chunk));
    named_barrier(kConsumerBarrier, kWarpgroup);
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
  __device__ void weigh(const SsdTimes<kSsdChunk>& times) {
    const int rows[2] = {group_row(), group_row() + 8};
    const float high[2] = {times.high[rows[0]], times.high[rows[1]]};
    const float low[2] = {times.low[rows[0]], times.low[rows[1]]};
#pragma unroll
    for (int k = 0; k < kQ / 8; ++k) {
      const int j = k * 8 + group_pair();
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

  /// Starts the copy of a chunk's z to where its y goes, once what was there has been read. One
  /// thread.
  __device__ void bring_gate(int chunk, int head, const TileMap& z_map) {
    wait_for_stores();
    shared.gate.arrive_expecting(sizeof(shared.y));
    load_tile(
        shared.y,
        z_map,
        head * kHeadColumns,
        static_cast<int>(segment.first) + chunk * kQ,
        shared.gate);
  }

  /// y + D x, gated if so, rounded, into the tile of y.
  __device__ void put_outputs(int chunk) {
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      unsigned skipped[4];
      load_tiles(skipped, shared.stages[chunk % 2].x + tiles_row(n));
      unsigned gates[4] = {};
      if constexpr (kGated) {
        load_tiles(gates, shared.y + tiles_row(n));
      }
      unsigned rounded[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 D =
            *reinterpret_cast<const float2*>(&shared.D[(n + i / 2) * 8 + group_pair()]);
        const float(&columns)[4] = y[n + i / 2];
        float2 out = {
            fmaf(D.x, unpack_bf16(skipped[i]).x, columns[i % 2 * 2]),
            fmaf(D.y, unpack_bf16(skipped[i]).y, columns[i % 2 * 2 + 1])};
        if constexpr (kGated) {
          const float2 z = unpack_bf16(gates[i]);
          out.x *= z.x * sigmoid(z.x);
          out.y *= z.y * sigmoid(z.y);
        }
        rounded[i] = pack_bf16(out.x, out.y);
      }
      store_tiles(rounded, shared.y + tiles_row(n));
    }
    publish_to_units();
  }

  /// The first rows of the tile of y to memory, where a whole tile would reach another sequence's.
  __device__ void copy_outputs(int chunk, __nv_bfloat16* to, long long stride) const {
    for (int i = threadIdx.x; i < left(chunk) * 8; i += kWarpgroup) {
      *reinterpret_cast<uint4*>(to + i / 8 * stride + i % 8 * 8) =
          *reinterpret_cast<const uint4*>(shared.y + swizzled(i / 8, i % 8));
    }
  }

  __device__ void walk(
      const SsdLayout& layout,
      int head,
      __nv_bfloat16* out,
      const TileMap& y_map,
      const TileMap& z_map) {
    put_state();
    if (chunks == 0) {
      return;
    }
    named_barrier(kConsumerBarrier, kWarpgroup);
    shared.full[0].wait(0);
    clear_beyond(0);
    start_scores(0);
    wait_for_products<0>();
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const SsdTimes<kSsdChunk>& times = shared.times[chunk % 2];
      const int next = min(chunk + 1, chunks - 1); // the last scores are made twice
      start_outputs(chunk);
      shared.timed[chunk % 2].wait(chunk / 2 % 2);
      weigh(times);
      if (kGated && threadIdx.x == 0) {
        bring_gate(chunk, head, z_map);
      }
      const float from_start[2] = {
          times.from_start[group_row()], times.from_start[group_row() + 8]};
      wait_for_products<0>();
#pragma unroll
      for (auto& columns : y) {
        columns[0] *= from_start[0];
        columns[1] *= from_start[0];
        columns[2] *= from_start[1];
        columns[3] *= from_start[1];
      }
      if constexpr (kConvolves) {
        shared.convolved[chunk % 2].wait(chunk / 2 % 2);
      }
      begin_products();
#pragma unroll
      for (int k = 0; k < kQ / 16; ++k) {
        multiply_held(y, weights[k], operand(shared.stages[chunk % 2].x + k * 2048));
      }
      commit_products();
      hold_columns(x, shared.stages[chunk % 2].x, times.input);
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
        multiply_held(state, x[k], operand(shared.stages[chunk % 2].B[0] + k * 2048, kPanelBytes));
      }
      commit_products();
      shared.full[next % 2].wait(next / 2 % 2);
      if (next > chunk) {
        clear_beyond(next);
      }
      wait_for_products<1>();
      start_scores(next);
      if constexpr (kGated) {
        shared.gate.wait(chunk % 2);
      } else if (threadIdx.x == 0) {
        wait_for_stores();
      }
      named_barrier(kConsumerBarrier, kWarpgroup); // the tiles of y and of the state have been read
      put_outputs(chunk);
      wait_for_products<1>();
      put_state();
      named_barrier(kConsumerBarrier, kWarpgroup);
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

/// Starts the copies of a chunk's tiles to its stage, which is free. One thread.
template <int kN, bool kGated>
__device__ void bring_tiles(
    SsdHopperShared<kN>& shared,
    const SsdSegment& segment,
    int chunk,
    int head,
    int group,
    const TileMap& x_map,
    const TileMap& B_map,
    const TileMap& C_map,
    const TileMap& z_map) {
  auto& stage = shared.stages[chunk % 2];
  SharedBarrier& full = shared.full[chunk % 2];
  const int row = static_cast<int>(segment.first) + chunk * kSsdChunk;
  full.arrive_expecting(sizeof(stage));
  load_tile(stage.x, x_map, head * 64, row, full);
  for (int panel = 0; panel < SsdHopperShared<kN>::kPanels; ++panel) {
    load_tile(stage.C[panel], C_map, group * kN + panel * 64, row, full);
    load_tile(stage.B[panel], B_map, group * kN + panel * 64, row, full);
  }
  if constexpr (kGated) {
    prefetch_tile(z_map, head * 64, row);
  }
}

/// One block for a head in a segment: block segment H + head. Four warps multiply, two keep time
/// and bring tiles, and two convolve x where that is to be done. states, if not null, receives the
/// state that leaves each sequence. Gated, y is multiplied by silu(z).
template <int kN, bool kGated, bool kConvolves>
__global__ void __launch_bounds__(kHopperThreads, 2) ssd_hopper(
    SsdLayout layout,
    SsdTimeInputs time,
    SsdForwardInputs in,
    __nv_bfloat16* y,
    float* states,
    const __grid_constant__ TileMap x_map,
    const __grid_constant__ TileMap B_map,
    const __grid_constant__ TileMap C_map,
    const __grid_constant__ TileMap y_map,
    const __grid_constant__ TileMap z_map) {
  using Shared = SsdHopperShared<kN>;
  Shared& shared = hopper_shared<Shared>(dynamic_shared());
  const int head = blockIdx.x % layout.heads;
  const int number = blockIdx.x / layout.heads;
  const SsdSegment segment = find_segment(layout, number);
  if (!segment.exists) {
    return;
  }
  const int chunks = chunks_of(segment);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared::kStages; ++i) {
      shared.full[i].start(1);
      shared.timed[i].start(kWarpThreads);
      shared.convolved[i].start(2 * kWarpThreads);
      shared.empty[i].start(1);
    }
    shared.gate.start(1);
    publish_barriers();
    shared.leaving = states != nullptr && ends_walk(layout, segment, /*reverse=*/false)
                         ? state_at(states, layout, segment.sequence, head, 0, 0)
                         : nullptr;
  }
  if (threadIdx.x < kHeadColumns) {
    shared.D[threadIdx.x] =
        in.D.data == nullptr
            ? 0.0f
            : in.D.data[head * in.D.head_stride + threadIdx.x * in.D.channel_stride];
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    take_registers<192>();
    const int channel = static_cast<int>(threadIdx.x) / kWarpThreads * 16;
    wait_for_launch_before(); // of states; all else was there before that began
    WarpSums<16, kN> initial = load_state<16, kN>(in.incoming, layout, number, head, channel, 0);
    SsdHopperConsumer<kN, kGated, kConvolves> consumer{shared, segment, chunks};
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        consumer.state[n][i] = initial.values[0][n][i];
      }
    }
    consumer.walk(layout, head, y, y_map, z_map);
    if (shared.leaving != nullptr) {
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          initial.values[0][n][i] = consumer.state[n][i];
        }
      }
      store_rows(initial, shared.leaving + channel * kN, kN, 16, kN, true);
    }
    return;
  }
  give_registers<64>();
  const int warp = static_cast<int>(threadIdx.x - kWarpgroup) / kWarpThreads;
  if (warp < 2) {
    const int group = head / (layout.heads / layout.groups);
    keep_time(shared, time, segment, head, warp, /*reverse=*/false, [&](int chunk) {
      if (kConvolves && chunk < 2) {
        wait_for_launch_before(); // of B and C
      }
      bring_tiles<kN, kGated>(shared, segment, chunk, head, group, x_map, B_map, C_map, z_map);
    });
  } else if (kConvolves) {
    convolve_tiles(shared, segment, ConvolvedPair(in.convolution, head), warp - 2);
  }
}

} // namespace baton
