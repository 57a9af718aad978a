// SPDX-License-Identifier: Apache-2.0
// What is left of the backward scan after ssd_chunk_gradients: from the sums per token to the
// gradients of time steps, and sums over chunks, over parts of groups, and over sequences.
#include "baton/ops/cuda/ssd_token_gradients.cuh"

namespace baton {

/// Blocks of ssd_token_gradients that share a multiprocessor. The compiler has no registers to
/// spare for as many on sm_80.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr int kTokenBlocks = 4;
#else
constexpr int kTokenBlocks = 2;
#endif

/// Block (chunk, heads / kSsdTokenHeads): the gradients of raw time steps, and the chunk's row of
/// sums, which is zero for an unused number.
__global__ void __launch_bounds__(kSsdTokenHeads* kWarpThreads, kTokenBlocks) ssd_token_gradients(
    SsdLayout layout,
    SsdTimeInputs time,
    const float* token_sums,
    int owners,
    SsdTimeGradients out) {
  __shared__ SsdTimes<kSsdChunk> times_of_heads[kSsdTokenHeads];
  __shared__ float gradients[kSsdChunk][kSsdTokenHeads + 1];
  SsdLayout chunks = layout;
  chunks.segment_tokens = kSsdChunk;
  const int number = static_cast<int>(blockIdx.x);
  const SsdSegment chunk = find_segment(chunks, number);
  const int first_head = static_cast<int>(blockIdx.y) * kSsdTokenHeads;
  const int own = static_cast<int>(threadIdx.x / kWarpThreads);
  const int head = first_head + own;
  const int passes = (layout.head_dim + kSsdGradientColumns - 1) / kSsdGradientColumns;
  float* row = out.chunk_sums + static_cast<long long>(number) * (2 * layout.heads + out.D_columns);
  if (chunk.tokens == 0) {
    for (int i = static_cast<int>(threadIdx.x); i < 2 * layout.heads + out.D_columns;
         i += kSsdTokenHeads * kWarpThreads) {
      row[i] = 0;
    }
    return;
  }
  if (head < layout.heads) {
    SsdTimes<kSsdChunk>& times = times_of_heads[own];
    const auto raw = read_steps<kSsdChunk>(time, head, chunk.first, chunk.tokens);
    write_times(times, time, head, raw, chunk.tokens);
    __syncwarp();
    const SsdTokenSums sums{
        token_sums + (static_cast<long long>(number) * layout.heads + head) * passes * owners *
                         kTokenSums * kSsdChunk,
        passes,
        owners};
    const SsdTokenGradients own_gradients = add_token_sums(sums, times);
    const float bias = time.bias_H == nullptr ? 0.0f : time.bias_H[head];
    const float A = time.A_H[head];
    float of_A = 0;
    float of_bias = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = 2 * warp_lane() + i;
      const float gradient = fmaf(A, own_gradients.decay[i], own_gradients.direct[i]) *
                             time_step_slope(time, bias, raw.values[i]);
      gradients[token][own] = gradient;
      if (token < chunk.tokens) {
        of_A += times.step[token] * own_gradients.decay[i];
        of_bias += gradient;
      }
    }
    of_A = sum_of_lanes(of_A);
    of_bias = sum_of_lanes(of_bias);
    if (warp_lane() == 0) {
      row[head] = of_A;
      row[layout.heads + head] = of_bias;
    }
    write_skip_sums(sums, out, head, layout.head_dim, row + 2 * layout.heads);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < chunk.tokens * kSsdTokenHeads;
       i += kSsdTokenHeads * kWarpThreads) {
    const int of_block = i % kSsdTokenHeads;
    if (first_head + of_block < layout.heads) {
      const float gradient = gradients[i / kSsdTokenHeads][of_block];
      const long long at =
          (chunk.first + i / kSsdTokenHeads) * out.ddt_stride + first_head + of_block;
      if (time.dt_is_fp32) {
        static_cast<float*>(out.ddt)[at] = gradient;
      } else {
        static_cast<__nv_bfloat16*>(out.ddt)[at] = __float2bfloat16(gradient);
      }
    }
  }
}

/// Adds up the rows of chunk_sums [rows, 2 H + D_columns]. A block takes kWarpThreads columns; each
/// of its warps adds up every kSsdSumWarps-th row, then the warps' sums are added in their order.
__global__ void __launch_bounds__(kSsdSumWarps* kWarpThreads) ssd_sum_chunks(
    const float* chunk_sums,
    long long rows,
    int heads,
    int D_columns,
    float* dA,
    float* dbias,
    float* dD) {
  __shared__ double of_warps[kSsdSumWarps][kWarpThreads];
  const int columns = 2 * heads + D_columns;
  const int lane = warp_lane();
  const int warp = static_cast<int>(threadIdx.x / kWarpThreads);
  const int column = static_cast<int>(blockIdx.x) * kWarpThreads + lane;
  double sum = 0;
  if (column < columns) {
#pragma unroll 4
    for (long long row = warp; row < rows; row += kSsdSumWarps) {
      sum += static_cast<double>(chunk_sums[row * columns + column]);
    }
  }
  of_warps[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && column < columns) {
    for (int other = 1; other < kSsdSumWarps; ++other) {
      sum += of_warps[other][lane];
    }
    float* to = column < heads       ? dA + column
                : column < 2 * heads ? dbias + column - heads
                                     : dD + column - 2 * heads;
    *to = static_cast<float>(sum);
  }
}

/// out = the sum over `parts` of parts [parts, size], of B's gradient or of C's. Of out, `columns`
/// lie side by side, `stride` behind those before them.
template <typename T>
__global__ void __launch_bounds__(kSsdAddThreads)
    ssd_add_parts(const float* parts, T* out, long long size, int count, int columns, int stride) {
  const long long at = static_cast<long long>(blockIdx.x) * kSsdAddThreads + threadIdx.x;
  if (at < size) {
    float sum = 0;
    for (int part = 0; part < count; ++part) {
      sum += parts[part * size + at];
    }
    out[at / columns * stride + at % columns] = static_cast<T>(sum);
  }
}

/// out[s] = the sum of gradients[b] over the sequences b that start from slot s, in their order;
/// both of `size` values each. Block (values / kSsdAddThreads, s - first_slot).
__global__ void __launch_bounds__(kSsdAddThreads) ssd_add_to_slots(
    const float* gradients,
    const int* slots,
    int sequences,
    int first_slot,
    long long size,
    float* out) {
  const int slot = first_slot + static_cast<int>(blockIdx.y);
  const long long at = static_cast<long long>(blockIdx.x) * kSsdAddThreads + threadIdx.x;
  float sum = 0;
  for (int first = 0; first < sequences; first += kWarpThreads) {
    const int mine = first + warp_lane();
    unsigned found = __ballot_sync(0xffffffffu, mine < sequences && slots[mine] == slot);
    while (found != 0) {
      const int b = first + __ffs(static_cast<int>(found)) - 1;
      found &= found - 1;
      if (at < size) {
        sum += gradients[b * size + at];
      }
    }
  }
  if (at < size) {
    out[slot * size + at] = sum;
  }
}

} // namespace baton
