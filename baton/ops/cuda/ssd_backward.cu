// SPDX-License-Identifier: Apache-2.0
// The backward scan, once ssd_sweep has left the states that come into the chunks and the gradients
// of those that leave them.
#include "baton/ops/cuda/ssd_gradient_inputs.cuh"
#include "baton/ops/cuda/ssd_gradient_keys.cuh"

namespace baton {

template <typename T, int kSlices, int kOwner>
__device__ void run_gradient_block(
    const SsdLayout& layout,
    const SsdTimeInputs& time,
    const SsdGradientInputs& in,
    const SsdGradientOutputs& out,
    const SsdSegment& chunk) {
  const int number = static_cast<int>(blockIdx.y);
  const SsdGradientBlock<T, kSlices, kOwner> block{
      layout, in, out, number / out.parts, number % out.parts};
  if (threadIdx.x == 0) {
    block.scalars().chunk = chunk;
  }
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x % (kSsdGradientThreads / 2));
  if (warp_index() < kSsdGradientThreads / 2 / kWarpThreads) {
    SsdInputGradients<T, kSlices, kOwner>(block, time, thread).run();
  } else {
    SsdKeyGradients<T, kSlices, kOwner>(block, thread).run();
  }
}

/// A block takes one chunk, its part of one group's heads, and for the gradients of B and C its
/// kSsdOwnSlices slices of the state dims: grid (chunks, G parts, owners).
template <typename T, int kSlices>
__global__ void __launch_bounds__(kSsdGradientThreads, 1) ssd_chunk_gradients(
    SsdLayout layout,
    SsdTimeInputs time,
    SsdGradientInputs in,
    SsdGradientOutputs out) {
  SsdLayout chunks = layout;
  chunks.segment_tokens = kSsdChunk;
  const SsdSegment chunk = find_segment(chunks, static_cast<int>(blockIdx.x));
  if (chunk.tokens == 0) { // an unused number
    return;
  }
  if constexpr (kSlices > kSsdOwnSlices) {
    if (blockIdx.z != 0) {
      run_gradient_block<T, kSlices, 1>(layout, time, in, out, chunk);
      return;
    }
  }
  run_gradient_block<T, kSlices, 0>(layout, time, in, out, chunk);
}

} // namespace baton
