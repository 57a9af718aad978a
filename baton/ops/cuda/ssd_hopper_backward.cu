// SPDX-License-Identifier: Apache-2.0
// The backward scan on sm_90a, once ssd_hopper_sweep has left the states that come into the chunks
// and the gradients of those that leave them.
#include "baton/ops/cuda/ssd_hopper_input_gradients.cuh"
#include "baton/ops/cuda/ssd_hopper_key_gradients.cuh"

namespace baton {

/// The warps of a block that multiply nothing.
template <int kN>
struct SsdHopperGradientHelper {
  using Shared = SsdHopperGradientShared<kN>;
  Shared& shared;
  const SsdLayout& layout;

  /// Calls `visit(turn, item, head)` for each head of each item.
  template <typename Visit>
  __device__ void follow(const Visit& visit) {
    SsdHopperTurn at;
    while (true) {
      shared.keys_full[at.keys()].wait(at.keys_parity());
      const SsdHopperItem item = shared.items[at.keys()];
      if (item.heads == 0) {
        return;
      }
      for (int i = 0; i < item.heads; ++i, ++at.turn) {
        visit(at, item, item.first_head + i);
      }
      __syncwarp();
      if (warp_lane() == 0) {
        shared.keys_empty[at.keys()].arrive();
      }
      ++at.item;
    }
  }

  __device__ SsdHopperItem find_item(long long number, int parts) const {
    SsdLayout chunks = layout;
    chunks.segment_tokens = kSsdChunk;
    const int of_chunk = layout.groups * parts;
    const int group = static_cast<int>(number % of_chunk) / parts;
    const int part = static_cast<int>(number % of_chunk) % parts;
    const int heads = layout.heads / layout.groups;
    const int first = heads * part / parts;
    return {
        find_segment(chunks, static_cast<int>(number / of_chunk)),
        group,
        part,
        group * heads + first,
        heads * (part + 1) / parts - first};
  }

  /// Finds the block's items and starts the copies of their tiles as soon as their places are free.
  /// One thread.
  __device__ void bring_tiles(
      const SsdHopperGradientInputs& in,
      int parts,
      long long items,
      const TileMap& x_map,
      const TileMap& dy_map,
      const TileMap& B_map,
      const TileMap& C_map) {
    SsdHopperTurn at;
    for (long long number = blockIdx.x; number < items; number += gridDim.x) {
      const SsdHopperItem item = find_item(number, parts);
      if (item.chunk.tokens == 0) { // an unused number
        continue;
      }
      if (at.item >= 2) {
        shared.keys_empty[at.keys()].wait(at.keys_parity_before());
      }
      const int row = static_cast<int>(item.chunk.first);
      auto& keys = shared.keys[at.keys()];
      SharedBarrier& keys_full = shared.keys_full[at.keys()];
      shared.items[at.keys()] = item;
      keys_full.arrive_expecting(sizeof(keys));
      for (int panel = 0; panel < Shared::kPanels; ++panel) {
        load_tile(keys.B[panel], B_map, item.group * kN + panel * 64, row, keys_full);
        load_tile(keys.C[panel], C_map, item.group * kN + panel * 64, row, keys_full);
      }
      for (int i = 0; i < item.heads; ++i, ++at.turn) {
        const int head = item.first_head + i;
        if (at.turn >= 2) {
          shared.empty[at.stage()].wait(at.parity_before());
        }
        auto& stage = shared.stages[at.stage()];
        SharedBarrier& full = shared.full[at.stage()];
        full.arrive_expecting(sizeof(stage));
        load_tile(stage.x, x_map, head * kHeadColumns, row, full);
        load_tile(stage.dy, dy_map, head * kHeadColumns, row, full);
        constexpr int kBytes = sizeof(stage.states);
        const long long state = (item.chunk.chunk * layout.heads + head) * kBytes;
        load_bytes(stage.dstates, in.dstates + state, kBytes, full);
        load_bytes(stage.states, in.states + state, kBytes, full);
      }
      ++at.item;
    }
    if (at.item >= 2) {
      shared.keys_empty[at.keys()].wait(at.keys_parity_before());
    }
    shared.items[at.keys()].heads = 0;
    shared.keys_full[at.keys()].arrive();
  }

  /// Makes the time steps of every second turn. One warp.
  __device__ void keep_time(const SsdTimeInputs& time, const SsdSkipInputs& D, int first) {
    follow([&](const SsdHopperTurn& at, const SsdHopperItem& item, int head) {
      if (at.stage() != first) {
        return;
      }
      const auto raw = read_steps<kSsdChunk>(time, head, item.chunk.first, item.chunk.tokens);
      if (at.turn >= 2) {
        shared.empty[first].wait(at.parity_before());
      }
      write_times(shared.times[first], time, head, raw, item.chunk.tokens);
      for (int p = warp_lane(); p < kHeadColumns; p += kWarpThreads) {
        shared.D[first][p] =
            D.data == nullptr ? 0.0f : D.data[head * D.head_stride + p * D.channel_stride];
      }
      __syncwarp();
      write_quarters(first);
      shared.timed[first].arrive();
    });
  }

  __device__ void write_quarters(int stage) {
    const SsdTimes<kSsdChunk>& times = shared.times[stage];
    SsdQuarters& quarters = shared.quarters[stage];
    const auto between = [&](int from, int to) {
      return fast_exp2((times.high[to] - times.high[from]) + (times.low[to] - times.low[from]));
    };
#pragma unroll
    for (int token = warp_lane(); token < kSsdChunk; token += kWarpThreads) {
      quarters.to_quarter[token] = between(token, token / 16 * 16 + 15);
#pragma unroll
      for (int quarter = 0; quarter < 4; ++quarter) {
        quarters.beyond_quarter[quarter][token] =
            token / 16 > quarter ? between(quarter * 16 + 15, token) : 0.0f;
      }
    }
  }

  /// Writes the sums of all turns [chunks, H, kTokenSums, 64]. One warp.
  __device__ void write_sums(float* token_sums) {
    follow([&](const SsdHopperTurn& at, const SsdHopperItem& item, int head) {
      const SsdHopperSums& sums = shared.sums[at.stage()];
      shared.summed[at.stage()].wait(at.parity());
      float* to = token_sums + (item.chunk.chunk * layout.heads + head) * (kTokenSums * kSsdChunk);
      for (int token = warp_lane(); token < kSsdChunk; token += kWarpThreads) {
        float carried = sums.carried[token];
        if (token == kSsdChunk - 1) {
          carried += (sums.through[0] + sums.through[1]) + (sums.through[2] + sums.through[3]);
        }
        to[kCarriedSum * kSsdChunk + token] = carried;
        to[kLeftSum * kSsdChunk + token] = sums.left[token];
        to[kInsideSum * kSsdChunk + token] = sums.inside[token];
        to[kCrossingSum * kSsdChunk + token] = sums.crossing[token];
        to[kSkipSum * kSsdChunk + token] = (sums.skip[0][token] + sums.skip[1][token]) +
                                           (sums.skip[2][token] + sums.skip[3][token]);
      }
      __syncwarp();
      if (warp_lane() == 0) {
        shared.written[at.stage()].arrive();
      }
    });
  }
};

template <int kN>
__device__ void start_barriers(SsdHopperGradientShared<kN>& shared) {
  constexpr unsigned kWarps = 2 * kWarpgroup / kWarpThreads; // of those that multiply
  for (int i = 0; i < 2; ++i) {
    shared.keys_full[i].start(1);
    shared.keys_empty[i].start(kWarps + kHopperHelpers);
    shared.full[i].start(1);
    shared.timed[i].start(kWarpThreads);
    shared.empty[i].start(kWarps);
    shared.summed[i].start(kWarps);
    shared.written[i].start(1);
  }
  shared.scores_left.start(kWarpgroup);
  shared.scores_taken.start(kWarpgroup);
  publish_barriers();
}

/// Blocks share the `items` of chunks, groups and parts among them.
template <int kN>
__global__ void __launch_bounds__(kHopperGradientThreads, 1) ssd_hopper_gradients(
    SsdLayout layout,
    SsdTimeInputs time,
    SsdHopperGradientInputs in,
    SsdGradientOutputs out,
    long long items,
    const __grid_constant__ TileMap x_map,
    const __grid_constant__ TileMap dy_map,
    const __grid_constant__ TileMap B_map,
    const __grid_constant__ TileMap C_map,
    const __grid_constant__ TileMap dx_map) {
  using Shared = SsdHopperGradientShared<kN>;
  Shared& shared = hopper_shared<Shared>(dynamic_shared());
  if (threadIdx.x == 0) {
    start_barriers(shared);
  }
  for (int i = static_cast<int>(threadIdx.x); i < kSsdChunk * 8; i += kHopperGradientThreads) {
    const int row = i / 8;
    unsigned pairs[4];
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const int column = i % 8 * 8 + pair * 2;
      pairs[pair] = pack_bf16(column >= row ? 1.0f : 0.0f, column + 1 >= row ? 1.0f : 0.0f);
    }
    *reinterpret_cast<uint4*>(shared.suffixes + swizzled(row, i % 8)) =
        uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
  }
  publish_to_units();
  __syncthreads();
  const int role = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (role == 0) {
    take_registers<224>();
    SsdHopperInputGradients<kN>{
        shared, layout, static_cast<__nv_bfloat16*>(out.dx), out.dx_stride, dx_map}
        .run();
  } else if (role == 1) {
    take_registers<224>();
    SsdHopperKeyGradients<kN>{shared, layout, out}.run();
  } else {
    give_registers<56>();
    SsdHopperGradientHelper<kN> helper{shared, layout};
    const int warp = group_thread() / kWarpThreads;
    if (warp < 2) {
      helper.keep_time(time, in.D, warp);
    } else if (warp == 2) {
      helper.write_sums(out.token_sums);
    } else if (warp_lane() == 0) {
      helper.bring_tiles(in, out.parts, items, x_map, dy_map, B_map, C_map);
    }
  }
}

} // namespace baton
