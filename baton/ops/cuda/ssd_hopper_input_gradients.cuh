// SPDX-License-Identifier: Apache-2.0
// The warpgroup of ssd_hopper_gradients that makes the gradient of x, and what the gradients of
// time steps and of scores take of it.
#pragma once

#include "baton/ops/cuda/ssd_hopper_gradients.cuh"

namespace baton {

template <int kN>
struct SsdHopperInputGradients {
  static constexpr int kBarrier = 1;
  static constexpr int kRowBlocks = kSsdChunk / 8;

  SsdHopperGradientShared<kN>& shared;
  const SsdLayout& layout;
  __nv_bfloat16* dx;
  int stride; ///< of dx, from a token to the next
  const TileMap& dx_map;
  SsdHopperTurn at;
  int thread = 0;               ///< renewed at every head
  float scores[kRowBlocks][4];  // row j, column i: C_i . B_j
  float dscores[kRowBlocks][4]; // their gradients, transposed likewise

  __device__ int row(int half) const { return group_row(thread) + 8 * half; }

  __device__ void run() {
    while (true) {
      shared.keys_full[at.keys()].wait(at.keys_parity());
      const SsdHopperItem& item = shared.items[at.keys()];
      if (item.heads == 0) {
        break;
      }
      begin_item(item);
      for (int i = 0; i < item.heads; ++i, ++at.turn) {
        add_head(item, item.first_head + i, i == 0);
      }
      __syncwarp();
      if (warp_lane() == 0) {
        shared.keys_empty[at.keys()].arrive();
      }
      put_rows(dscores, shared.terms);
      shared.scores_left.arrive();
      ++at.item;
    }
    if (group_thread() == 0) {
      wait_for_stores();
    }
  }

  __device__ void begin_item(const SsdHopperItem& item) {
    thread = renewed(group_thread());
    auto& keys = shared.keys[at.keys()];
    if (item.chunk.tokens < kSsdChunk) {
      clear_together(keys.B, SsdHopperGradientShared<kN>::kPanels, item.chunk.tokens, thread);
    }
    begin_products();
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      multiply_tiles(
          scores, operand(keys.B[k / 4]) + k % 4 * 2, operand(keys.C[k / 4]) + k % 4 * 2, k == 0);
    }
    commit_products();
#pragma unroll
    for (auto& block : dscores) {
#pragma unroll
      for (float& value : block) {
        value = 0;
      }
    }
    wait_for_products<0>();
    settle(scores);
  }

  /// From products x_j . dy_i to the weights of dy_i in du_j, to `terms` and to the gradients of
  /// scores. Leaves the sums of terms over i.
  __device__ void weigh(const float (&products)[kRowBlocks][4], HeldTokens& weights) {
    const SsdTimes<kSsdChunk>& times = shared.times[at.stage()];
    const SsdQuarters& quarters = shared.quarters[at.stage()];
    const int warp = thread / kWarpThreads;
    float own[2][2][2]; // decays inside the quarter: block of eight, row, column
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int i = warp * 16 + n * 8 + group_pair(thread) + e;
          const int j = row(half);
          const float between = (times.high[i] - times.high[j]) + (times.low[i] - times.low[j]);
          own[n][half][e] = i >= j ? fast_exp2(between) : 0.0f;
        }
      }
    }
    const float dt[2] = {times.step[row(0)], times.step[row(1)]};
    const float to_quarter[2] = {quarters.to_quarter[row(0)], quarters.to_quarter[row(1)]};
    float inside[2] = {0, 0};
#pragma unroll
    for (int k = 0; k < kProductSteps; ++k) {
      unsigned terms[4];
      unsigned rests[4];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float2 beyond = *reinterpret_cast<const float2*>(
            &quarters.beyond_quarter[warp][k * 16 + n * 8 + group_pair(thread)]);
        const float(&score)[4] = scores[2 * k + n];
        const float(&product)[4] = products[2 * k + n];
        float(&dscore)[4] = dscores[2 * k + n];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float weight[2];
          float term[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float across = to_quarter[half] * (e == 0 ? beyond.x : beyond.y);
            const float decay = k == warp ? own[n][half][e] : across;
            const float decayed = product[2 * half + e] * decay;
            dscore[2 * half + e] = fmaf(dt[half], decayed, dscore[2 * half + e]);
            weight[e] = score[2 * half + e] * decay;
            term[e] = score[2 * half + e] * decayed;
            inside[half] += term[e];
          }
          weights[k][2 * n + half] = pack_bf16(weight[0], weight[1]);
          terms[2 * n + half] = pack_bf16(term[0], term[1]);
          const float2 rounded = unpack_bf16(terms[2 * n + half]);
          rests[2 * n + half] = pack_bf16(term[0] - rounded.x, term[1] - rounded.y);
        }
      }
      store_tiles(terms, shared.terms[0] + tiles_row(2 * k, thread));
      store_tiles(rests, shared.terms[1] + tiles_row(2 * k, thread));
    }
    publish_to_units();
    SsdHopperSums& sums = shared.sums[at.stage()];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(inside[half]);
      if (warp_lane() % 4 == 0) {
        sums.inside[row(half)] = sum;
      }
    }
  }

  /// From sums over i >= k of terms, in row k and column j, to the sums of what crosses token k.
  __device__ void leave_crossing(const float (&suffixes)[kRowBlocks][4]) {
    const SsdTimes<kSsdChunk>& times = shared.times[at.stage()];
    const int warp = thread / kWarpThreads;
    float crossing[2] = {0, 0};
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      if (quarter > warp) {
        continue;
      }
#pragma unroll
      for (int n = 2 * quarter; n < 2 * quarter + 2; ++n) {
        const int j = n * 8 + group_pair(thread);
        const float2 dt = *reinterpret_cast<const float2*>(&times.step[j]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float first = j < row(half) ? suffixes[n][2 * half] : 0.0f;
          const float second = j + 1 < row(half) ? suffixes[n][2 * half + 1] : 0.0f;
          crossing[half] = fmaf(dt.x, first, fmaf(dt.y, second, crossing[half]));
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(crossing[half]);
      if (warp_lane() % 4 == 0) {
        shared.sums[at.stage()].crossing[row(half)] = sum;
      }
    }
  }

  /// du holds G B_j: leaves its products with x_j, and decays it to the chunk's end.
  __device__ void take_states(float (&du)[8][4]) {
    const SsdTimes<kSsdChunk>& times = shared.times[at.stage()];
    const float to_end[2] = {times.to_end[row(0)], times.to_end[row(1)]};
    float left[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      unsigned x[4];
      load_tiles(x, shared.stages[at.stage()].x + tiles_row(n, thread));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 values = unpack_bf16(x[i]);
        float& first = du[n + i / 2][i % 2 * 2];
        float& second = du[n + i / 2][i % 2 * 2 + 1];
        left[i % 2] = fmaf(values.x, first, fmaf(values.y, second, left[i % 2]));
        first *= to_end[i % 2];
        second *= to_end[i % 2];
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(left[half]);
      if (warp_lane() % 4 == 0) {
        shared.sums[at.stage()].left[row(half)] = sum;
      }
    }
  }

  /// dt du + D dy, rounded, into its tile.
  __device__ void put_inputs(const float (&du)[8][4]) {
    const SsdTimes<kSsdChunk>& times = shared.times[at.stage()];
    const float dt[2] = {times.step[row(0)], times.step[row(1)]};
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      unsigned dy[4];
      load_tiles(dy, shared.stages[at.stage()].dy + tiles_row(n, thread));
      unsigned rounded[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 D = *reinterpret_cast<const float2*>(
            &shared.D[at.stage()][(n + i / 2) * 8 + group_pair(thread)]);
        const float2 slope = unpack_bf16(dy[i]);
        const float(&columns)[4] = du[n + i / 2];
        rounded[i] = pack_bf16(
            fmaf(D.x, slope.x, dt[i % 2] * columns[i % 2 * 2]),
            fmaf(D.y, slope.y, dt[i % 2] * columns[i % 2 * 2 + 1]));
      }
      store_tiles(rounded, shared.dx + tiles_row(n, thread));
    }
    publish_to_units();
  }

  /// The tile of dx to memory; row by row where a whole tile would reach another sequence's.
  __device__ void store_inputs(const SsdHopperItem& item, int head) const {
    const long long token = item.chunk.first;
    if (item.chunk.tokens < kSsdChunk) {
      __nv_bfloat16* to = dx + token * stride + head * kHeadColumns;
      for (int i = group_thread(); i < item.chunk.tokens * 8; i += kWarpgroup) {
        *reinterpret_cast<uint4*>(to + i / 8 * stride + i % 8 * 8) =
            *reinterpret_cast<const uint4*>(shared.dx + swizzled(i / 8, i % 8));
      }
    } else if (group_thread() == 0) {
      store_tile(shared.dx, dx_map, head * kHeadColumns, static_cast<int>(token));
    }
  }

  __device__ void add_head(const SsdHopperItem& item, int head, bool first) {
    thread = renewed(group_thread());
    auto& stage = shared.stages[at.stage()];
    const auto& keys = shared.keys[at.keys()];
    float products[kRowBlocks][4]; // row j, column i: x_j . dy_i
    float du[8][4];
    HeldTokens weights;
    shared.full[at.stage()].wait(at.parity());
    if (item.chunk.tokens < kSsdChunk) {
      clear_together(&stage.x, 1, item.chunk.tokens, thread);
    }
    begin_products();
#pragma unroll
    for (int k = 0; k < kHeadColumns / 16; ++k) {
      multiply_tiles(products, operand(stage.x) + k * 2, operand(stage.dy) + k * 2, k == 0);
    }
    commit_products();
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      multiply_tiles(
          du,
          operand(keys.B[k / 4]) + k % 4 * 2,
          operand(stage.dstates[k / 4]) + k % 4 * 2,
          k == 0);
    }
    commit_products();
    shared.timed[at.stage()].wait(at.parity());
    if (at.turn >= 2) {
      shared.written[at.stage()].wait(at.parity_before());
    }
    if (first && at.item > 0) {
      shared.scores_taken.wait((at.item + 1) % 2);
    }
    wait_for_products<1>();
    settle(products);
    weigh(products, weights);
    if (group_thread() == 0) {
      wait_for_stores();
    }
    named_barrier(kBarrier, kWarpgroup); // terms are there, and the tile of dx has been read
    begin_products();
#pragma unroll
    for (int k = 0; k < 2 * kProductSteps; ++k) {
      multiply_tiles(
          products,
          operand(shared.suffixes) + k % kProductSteps * 2,
          operand(shared.terms[k / kProductSteps]) + k % kProductSteps * 2,
          k == 0);
    }
    commit_products();
    wait_for_products<1>();
    settle(du);
    take_states(du);
    begin_products();
#pragma unroll
    for (int k = 0; k < kProductSteps; ++k) {
      multiply_held(du, weights[k], operand(stage.dy + k * 2048));
    }
    commit_products();
    wait_for_products<1>();
    settle(products);
    leave_crossing(products);
    wait_for_products<0>();
    settle(du);
    put_inputs(du);
    named_barrier(kBarrier, kWarpgroup); // all have read terms, and dx is there
    if (warp_lane() == 0) {
      shared.summed[at.stage()].arrive();
      shared.empty[at.stage()].arrive();
    }
    store_inputs(item, head);
  }
};

} // namespace baton
