// SPDX-License-Identifier: Apache-2.0
// The backward scan, once ssd_sweep has left the states that come into the chunks and the gradients
// of those that leave them.
#include "baton/ops/cuda/ssd_chunk_gradients.cuh"

namespace baton {

/// A block takes one chunk and its part of one group's heads: grid (chunks, G parts).
template <typename T, int kSlices>
__global__ void __launch_bounds__(kSsdGradientThreads, 2) ssd_chunk_gradients(
    SsdLayout layout,
    SsdTimeInputs time,
    SsdGradientInputs in,
    SsdGradientOutputs out) {
  SsdLayout chunks = layout;
  chunks.segment_tokens = kSsdChunk;
  const SsdSegment chunk = find_segment(chunks, static_cast<int>(blockIdx.x));
  if (chunk.tokens == 0) { // an unused number
    const int columns = 2 * layout.heads + out.dD_columns;
    for (int i = static_cast<int>(threadIdx.x); blockIdx.y == 0 && i < columns;
         i += kSsdGradientThreads) {
      out.chunk_sums[static_cast<long long>(blockIdx.x) * columns + i] = 0;
    }
    return;
  }
  SsdChunkGradients<T, kSlices>(layout, time, in, out, chunk).run();
}

} // namespace baton
