// SPDX-License-Identifier: Apache-2.0
// The walks of ssd_sweep.cu on sm_90a, for bf16 heads of 64 channels, with products of a warpgroup
// and tiles that the tensor memory accelerator copies. A block takes 64 or
// 128 columns of a head's state. One launch may make a walk forwards and one backwards.
#include "baton/ops/cuda/launch_overlap.cuh"
#include "baton/ops/cuda/shared_memory.cuh"
#include "baton/ops/cuda/ssd_hopper.cuh"

namespace baton {

/// Shared memory of a block of ssd_hopper_sweep.
template <int kColumns>
struct SsdHopperSweepShared {
  static constexpr int kPanels = kColumns / 64;
  static constexpr int kStages = 3;

  struct Stage {
    Panel values;        ///< x or dy
    Panel keys[kPanels]; ///< B or C
  };
  Stage stages[kStages];
  Panel states[2][kPanels]; ///< on their way to memory
  SsdTimes<kSsdChunk> times[kStages];
  SharedBarrier full[kStages];  ///< the tiles of a stage have come
  SharedBarrier timed[kStages]; ///< its time steps are there
  SharedBarrier empty[kStages]; ///< both are done with
};

static_assert(
    sizeof(SsdHopperSweepShared<128>) + 1024 <= kHopperSweepPanels<128> * kPanelBytes + kHopperRest,
    "fits");

/// What a block works on.
struct SsdHopperStretch {
  SsdSegment segment;
  int number; ///< of the segment
  int head;
  int column; ///< of the state, the first
  int chunks;
  bool reverse;

  /// The chunk of the segment that step i takes.
  __device__ int part(int i) const { return reverse ? chunks - 1 - i : i; }
  __device__ int tokens_from(int i) const { return segment.tokens - part(i) * kSsdChunk; }
};

/// The threads that multiply. Warp w holds channels 16 w to 16 w + 15 of the state.
template <int kColumns>
struct SsdHopperSweeper {
  SsdHopperSweepShared<kColumns>& shared;
  const SsdLayout& layout;
  const SsdHopperStretch& stretch;
  const SsdSweepOutputs& out;
  float state[kColumns / 8][4];

  /// What comes into chunk `part(i)`, to memory.
  __device__ void leave_state(int i) {
    put_rows(state, shared.states[i % 2]);
    publish_to_units();
    if (threadIdx.x == 0) {
      wait_for_stores(); // of the other tile, which the next step fills
    }
    named_barrier(1, kWarpgroup);
    if (threadIdx.x == 0) {
      const long long chunk = stretch.segment.chunk + stretch.part(i);
      constexpr int kBytes = sizeof(shared.states[0]);
      const long long state = (chunk * layout.heads + stretch.head) * layout.state_dim;
      store_bytes(
          shared.states[i % 2],
          static_cast<unsigned char*>(out.chunk_states) +
              (state + stretch.column) * (kHeadColumns * 2),
          kBytes);
    }
  }

  /// Reads a step's values as soon as they have come.
  __device__ void hold(HeldTokens& values, int i) {
    auto& stage = shared.stages[i % 3];
    const SsdTimes<kSsdChunk>& times = shared.times[i % 3];
    shared.full[i % 3].wait(i / 3 % 2);
    if (stretch.tokens_from(i) < kSsdChunk) {
      clear_rows(&stage.values, sizeof(stage) / kPanelBytes, stretch.tokens_from(i));
      named_barrier(1, kWarpgroup);
    }
    shared.timed[i % 3].wait(i / 3 % 2);
    hold_columns(values, stage.values, stretch.reverse ? times.from_start : times.input);
  }

  /// Starts the products of a step.
  __device__ void start(const HeldTokens& values, int i) {
    const float decay = shared.times[i % 3].decay;
#pragma unroll
    for (auto& columns : state) {
#pragma unroll
      for (float& value : columns) {
        value *= decay;
      }
    }
    begin_products();
#pragma unroll
    for (int k = 0; k < kProductSteps; ++k) {
      multiply_held(
          state, values[k], operand(shared.stages[i % 3].keys[0] + k * 2048, kPanelBytes));
    }
    commit_products();
  }

  /// A state to its entry of out.states.
  __device__ void put_state(WarpSums<16, kColumns>& sums, int entry, int channel) const {
    store_rows(
        sums,
        state_at(out.states, layout, entry, stretch.head, channel, stretch.column),
        layout.state_dim,
        16,
        kColumns,
        true);
  }

  __device__ void walk(const SsdStates& incoming) {
    const int channel = static_cast<int>(threadIdx.x) / kWarpThreads * 16;
    const int own = out.hands_on ? stretch.segment.sequence : stretch.number;
    WarpSums<16, kColumns> ends =
        load_state<16, kColumns>(incoming, layout, own, stretch.head, channel, stretch.column);
    if (out.hands_on) {
      put_state(ends, stretch.number, channel);
    }
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        state[n][i] = ends.values[0][n][i];
      }
    }
    double log_decay = 0;
    HeldTokens values[2]; // of this step, and of the next while this one's products run
    if (stretch.chunks > 0) {
      hold(values[0], 0);
    }
    for (int pair = 0; pair < stretch.chunks; pair += 2) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int i = pair + odd;
        if (i < stretch.chunks) {
          if (out.chunk_states != nullptr) {
            leave_state(i);
          }
          start(values[odd], i);
          log_decay += shared.times[i % 3].log_decay;
          if (i + 1 < stretch.chunks) {
            hold(values[1 - odd], i + 1);
          }
          wait_for_products<0>();
          settle(state);
          if (warp_lane() == 0) {
            shared.empty[i % 3].arrive();
          }
        }
      }
    }
    if (out.log_decays != nullptr && stretch.column == 0 && threadIdx.x == 0) {
      out.log_decays[static_cast<long long>(stretch.number) * layout.heads + stretch.head] =
          static_cast<float>(log_decay);
    }
    if (out.states != nullptr && !(out.hands_on && stretch.chunks == 0)) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          ends.values[0][n][i] = state[n][i];
        }
      }
      const int next = stretch.number + (stretch.reverse ? -1 : 1);
      put_state(ends, out.hands_on ? next : stretch.number, channel);
    }
    if (threadIdx.x == 0) {
      wait_for_stores();
    }
  }
};

/// Starts the copies of a chunk's tiles as soon as their stage is free. One thread.
template <int kColumns>
__device__ void bring_tiles(
    SsdHopperSweepShared<kColumns>& shared,
    const SsdLayout& layout,
    const SsdHopperStretch& stretch,
    const TileMap& values_map,
    const TileMap& keys_map) {
  using Shared = SsdHopperSweepShared<kColumns>;
  const int group = stretch.head / (layout.heads / layout.groups);
  const int key = group * layout.state_dim + stretch.column;
  constexpr int kStages = Shared::kStages;
  for (int i = 0; i < stretch.chunks; ++i) {
    auto& stage = shared.stages[i % kStages];
    SharedBarrier& full = shared.full[i % kStages];
    if (i >= kStages) {
      shared.empty[i % kStages].wait((i / kStages - 1) % 2);
    }
    const int row = static_cast<int>(stretch.segment.first) + stretch.part(i) * kSsdChunk;
    full.arrive_expecting(sizeof(stage));
    load_tile(stage.values, values_map, stretch.head * kHeadColumns, row, full);
    for (int panel = 0; panel < Shared::kPanels; ++panel) {
      load_tile(stage.keys[panel], keys_map, key + panel * 64, row, full);
    }
  }
}

/// One block for some columns of a head's state in a segment and a walk: block ((segment H + head)
/// parts + part, walk). Four warps multiply, two keep time and one thread brings tiles.
template <int kColumns>
__global__ void __launch_bounds__(kHopperThreads, kColumns == 64 ? 3 : 2) ssd_hopper_sweep(
    SsdLayout layout,
    SsdTimeInputs time,
    const __grid_constant__ SsdSweepWalks walks,
    const __grid_constant__ TileMap first_values,
    const __grid_constant__ TileMap first_keys,
    const __grid_constant__ TileMap second_values,
    const __grid_constant__ TileMap second_keys) {
  using Shared = SsdHopperSweepShared<kColumns>;
  Shared& shared = hopper_shared<Shared>(dynamic_shared());
  const SsdSweepWalk& walk = walks.of[blockIdx.y];
  const int parts = layout.state_dim / kColumns;
  const int of_heads = static_cast<int>(blockIdx.x) / parts;
  const int number = of_heads / layout.heads;
  SsdSegment segment = find_segment(layout, number);
  if (!takes_segment(layout, walk, segment)) {
    return;
  }
  const SsdHopperStretch stretch{
      segment,
      number,
      of_heads % layout.heads,
      static_cast<int>(blockIdx.x) % parts * kColumns,
      chunks_of(segment),
      walk.reverse};
  if (threadIdx.x == 0) {
    let_next_begin();
    for (int i = 0; i < Shared::kStages; ++i) {
      shared.full[i].start(1);
      shared.timed[i].start(kWarpThreads);
      shared.empty[i].start(kWarpgroup / kWarpThreads);
    }
    publish_barriers();
  }
  __syncthreads();
  const int warp = warp_index() - kWarpgroup / kWarpThreads;
  if (warp < 0) {
    take_registers<kColumns == 64 ? 112 : 184>();
    SsdHopperSweeper<kColumns>{shared, layout, stretch, walk.out}.walk(walk.in.incoming);
    return;
  }
  give_registers<kColumns == 64 ? 48 : 72>();
  if (warp < 2) {
    keep_time(shared, time, segment, stretch.head, warp, walk.reverse, [](int) {});
  } else if (threadIdx.x == kHopperThreads - 1) {
    const bool second = blockIdx.y != 0;
    bring_tiles(
        shared,
        layout,
        stretch,
        second ? second_values : first_values,
        second ? second_keys : first_keys);
  }
}

} // namespace baton
