// SPDX-License-Identifier: Apache-2.0
// The warpgroup of ssd_hopper_gradients that adds up the gradients of B and C over an item's heads.
#pragma once

#include "baton/ops/cuda/ssd_hopper_gradients.cuh"

namespace baton {

template <int kN>
struct SsdHopperKeyGradients {
  SsdHopperGradientShared<kN>& shared;
  const SsdLayout& layout;
  const SsdGradientOutputs& out;
  SsdHopperTurn at;
  int thread = 0;         ///< renewed at every head
  float dkeys[kN / 8][4]; // rows are tokens
  float dqueries[kN / 8][4];

  __device__ int row(int half) const { return group_row(thread) + 8 * half; }

  __device__ void run() {
    while (true) {
      shared.keys_full[at.keys()].wait(at.keys_parity());
      const SsdHopperItem& item = shared.items[at.keys()];
      if (item.heads == 0) {
        return;
      }
      begin_item(item);
      for (int i = 0; i < item.heads; ++i, ++at.turn) {
        add_head(item);
      }
      add_scores();
      if (out.parts == 1) {
        write<__nv_bfloat16>(item);
      } else {
        write<float>(item);
      }
      __syncwarp();
      if (warp_lane() == 0) {
        shared.keys_empty[at.keys()].arrive();
      }
      ++at.item;
    }
  }

  __device__ void begin_item(const SsdHopperItem& item) {
    thread = renewed(group_thread());
    if (item.chunk.tokens < kSsdChunk) {
      clear_together(
          shared.keys[at.keys()].C,
          SsdHopperGradientShared<kN>::kPanels,
          item.chunk.tokens,
          thread);
    }
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        dkeys[n][i] = 0;
        dqueries[n][i] = 0;
      }
    }
  }

  /// Reads this warp's rows of x and dy, times what their tokens add, and leaves the sums of dy x
  /// over the warp's tokens.
  __device__ void hold_rows(HeldTokens& x, HeldTokens& dy) {
    const auto& stage = shared.stages[at.stage()];
    const SsdTimes<kSsdChunk>& times = shared.times[at.stage()];
    const float input[2] = {times.input[row(0)], times.input[row(1)]};
    const float from_start[2] = {times.from_start[row(0)], times.from_start[row(1)]};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float skip[4]; // columns: pair() and the next, and eight further
      load_tiles(x[k], stage.x + tiles_row(2 * k, thread));
      load_tiles(dy[k], stage.dy + tiles_row(2 * k, thread));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 of_x = unpack_bf16(x[k][i]);
        const float2 of_dy = unpack_bf16(dy[k][i]);
        float& even = skip[i / 2 * 2];
        float& odd = skip[i / 2 * 2 + 1];
        even = i % 2 == 0 ? of_x.x * of_dy.x : fmaf(of_x.x, of_dy.x, even);
        odd = i % 2 == 0 ? of_x.y * of_dy.y : fmaf(of_x.y, of_dy.y, odd);
        x[k][i] = pack_bf16(of_x.x * input[i % 2], of_x.y * input[i % 2]);
        dy[k][i] = pack_bf16(of_dy.x * from_start[i % 2], of_dy.y * from_start[i % 2]);
      }
      leave_skip(k, skip);
    }
  }

  /// Adds four columns of 16 k and on up over the eight lanes that have them.
  __device__ void leave_skip(int k, const float (&skip)[4]) {
    const int lane = thread % kWarpThreads;
    const bool later = (lane & 16) != 0;
    const bool odd = (lane & 8) != 0;
    float even_sum = later ? skip[2] : skip[0];
    float odd_sum = later ? skip[3] : skip[1];
    even_sum += __shfl_xor_sync(0xffffffffu, later ? skip[0] : skip[2], 16);
    odd_sum += __shfl_xor_sync(0xffffffffu, later ? skip[1] : skip[3], 16);
    float sum = odd ? odd_sum : even_sum;
    sum += __shfl_xor_sync(0xffffffffu, odd ? even_sum : odd_sum, 8);
    sum += __shfl_xor_sync(0xffffffffu, sum, 4);
    if ((lane & 4) == 0) {
      const int column = k * 16 + (later ? 8 : 0) + group_pair(thread) + (odd ? 1 : 0);
      shared.sums[at.stage()].skip[thread / kWarpThreads][column] = sum;
    }
  }

  /// The sum of the products of both states' values: the diagonal of H G^T, of which each warp
  /// makes its 16 x 16 block.
  __device__ void leave_through() {
    const auto& stage = shared.stages[at.stage()];
    float upper[4] = {0, 0, 0, 0};
    float lower[4] = {0, 0, 0, 0};
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      unsigned states[4];
      unsigned dstates[4];
      load_tiles(states, stage.states[k / 4] + tiles_row(k % 4 * 2, thread));
      load_tiles(dstates, stage.dstates[k / 4] + tiles_row(k % 4 * 2, thread));
      multiply_add(upper, states, {dstates[0], dstates[2]});
      multiply_add(lower, states, {dstates[1], dstates[3]});
    }
    const int lane = thread % kWarpThreads;
    float sum = 0;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      sum += lane / 4 == lane % 4 * 2 + e ? upper[e] + lower[2 + e] : 0.0f;
    }
#pragma unroll
    for (int by = 1; by < kWarpThreads; by *= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, by);
    }
    if (lane == 0) {
      shared.sums[at.stage()].through[thread / kWarpThreads] = sum;
    }
  }

  /// outputs holds H C_i: leaves its products with dy_i.
  __device__ void leave_carried(const float (&outputs)[8][4]) {
    float carried[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      unsigned dy[4];
      load_tiles(dy, shared.stages[at.stage()].dy + tiles_row(n, thread));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 values = unpack_bf16(dy[i]);
        const float(&columns)[4] = outputs[n + i / 2];
        carried[i % 2] = fmaf(
            values.x, columns[i % 2 * 2], fmaf(values.y, columns[i % 2 * 2 + 1], carried[i % 2]));
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(carried[half]);
      if (warp_lane() % 4 == 0) {
        shared.sums[at.stage()].carried[row(half)] = sum;
      }
    }
  }

  __device__ void add_head(const SsdHopperItem& item) {
    thread = renewed(group_thread());
    auto& stage = shared.stages[at.stage()];
    const auto& keys = shared.keys[at.keys()];
    float outputs[8][4];
    shared.full[at.stage()].wait(at.parity());
    if (item.chunk.tokens < kSsdChunk) {
      clear_together(&stage.dy, 1, item.chunk.tokens, thread);
    }
    begin_products();
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      multiply_tiles(
          outputs,
          operand(keys.C[k / 4]) + k % 4 * 2,
          operand(stage.states[k / 4]) + k % 4 * 2,
          k == 0);
    }
    commit_products();
    shared.timed[at.stage()].wait(at.parity());
    if (at.turn >= 2) {
      shared.written[at.stage()].wait(at.parity_before());
    }
    leave_through();
    wait_for_products<0>();
    settle(outputs);
    leave_carried(outputs);
    HeldTokens x;
    HeldTokens dy;
    hold_rows(x, dy);
    begin_products();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      multiply_held(dkeys, x[k], operand(stage.dstates[0] + k * 2048, kPanelBytes));
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      multiply_held(dqueries, dy[k], operand(stage.states[0] + k * 2048, kPanelBytes));
    }
    commit_products();
    wait_for_products<0>();
    settle(dkeys);
    settle(dqueries);
    __syncwarp();
    if (warp_lane() == 0) {
      shared.summed[at.stage()].arrive();
      shared.empty[at.stage()].arrive();
    }
  }

  /// What the gradients of scores, which the other warpgroup leaves, add.
  __device__ void add_scores() {
    const auto& keys = shared.keys[at.keys()];
    HeldTokens scores; // row i of C, or of B: over the other's tokens
    shared.scores_left.wait(at.item % 2);
#pragma unroll
    for (int k = 0; k < kProductSteps; ++k) {
      load_tiles(scores[k], shared.terms[0] + tiles_row(2 * k, thread));
    }
    begin_products();
#pragma unroll
    for (int k = 0; k < kProductSteps; ++k) {
      multiply_held(dkeys, scores[k], operand(keys.C[0] + k * 2048, kPanelBytes));
    }
    commit_products();
    const int lane = thread % kWarpThreads;
    wait_for_products<0>(); // for its left operand
#pragma unroll
    for (int k = 0; k < kProductSteps; ++k) {
      const int token = k * 16 + lane / 16 * 8 + lane % 8;
      const int granule = thread / kWarpThreads * 2 + lane / 8 % 2;
      load_tiles_transposed(scores[k], shared.terms[0] + swizzled(token, granule));
    }
    shared.scores_taken.arrive();
    begin_products();
#pragma unroll
    for (int k = 0; k < kProductSteps; ++k) {
      multiply_held(dqueries, scores[k], operand(keys.B[0] + k * 2048, kPanelBytes));
    }
    commit_products();
    wait_for_products<0>();
    settle(dkeys);
    settle(dqueries);
  }

  template <typename Out>
  __device__ void write(const SsdHopperItem& item) {
    thread = renewed(group_thread());
    const long long token = item.part * out.tokens + item.chunk.first + row(0);
    const int column = item.group * kN + group_pair(thread);
    const int rows = item.chunk.tokens - row(0);
    write_rows(
        static_cast<Out*>(out.dkeys) + token * out.dkeys_stride + column,
        dkeys,
        out.dkeys_stride,
        rows);
    write_rows(
        static_cast<Out*>(out.dqueries) + token * out.dqueries_stride + column,
        dqueries,
        out.dqueries_stride,
        rows);
  }

  /// The first of this thread's rows begins at `to`; `rows` are left from there on.
  template <typename Out>
  __device__ static void write_rows(Out* to, const float (&sums)[kN / 8][4], int stride, int rows) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (8 * half < rows) {
#pragma unroll
        for (int n = 0; n < kN / 8; ++n) {
          store_pair(to + 8 * half * stride + n * 8, sums[n][2 * half], sums[n][2 * half + 1]);
        }
      }
    }
  }
};

} // namespace baton
