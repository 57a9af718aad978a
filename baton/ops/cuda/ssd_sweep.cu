// SPDX-License-Identifier: Apache-2.0
// Walks over segments that keep nothing but the state. Forwards, with h the state of a head:
//   h <- exp(l_last) h + sum_j dt_j exp(l_last - l_j) x_j B_j^T
// and backwards, with g the gradient of the state:
//   g <- exp(l_last) g + sum_i exp(l_i) dy_i C_i^T
// where l_i is the sum of dt A over the tokens of a step up to i (Dao and Gu, "Transformers are
// SSMs", 2024, section 6).
#include "baton/ops/cuda/shared_memory.cuh"
#include "baton/ops/cuda/ssd_chunks.cuh"
#include "baton/ops/cuda/tile_product.cuh"

namespace baton {

/// Steps whose rows are in shared memory or on their way.
constexpr int kSsdSweepStages = 3;

/// What a block of ssd_sweep works on: kP channels of a head in a segment. Its first kWarps warps
/// hold 16 channels of the state each, times the padded state dim kN. One more makes time steps, a
/// step ahead, and one copies rows.
template <typename T, int kP, int kN>
struct SsdSweepBlock {
  static constexpr int kQ = kSsdStep<T>;
  static constexpr int kWarps = kP / 16;
  static constexpr int kTimeWarp = kWarps;
  static constexpr int kThreads = (kWarps + 2) * kWarpThreads;
  static constexpr int kStepsOfChunk = kSsdChunk / kQ;
  static constexpr int kStage = Tile<T, kP>::size(kQ) + Tile<T, kN>::size(kQ);

  const SsdLayout& layout;
  const SsdTimeInputs& time;
  const SsdSweepWalk& walk;
  SsdSegment segment;
  int number; ///< of the segment
  int head;
  int channel; ///< first of the block's, within the head
  T* tiles;    ///< shared memory: rows of kSsdSweepStages steps
  SsdTimes<kQ>* times;

  __device__ int steps() const { return (segment.tokens + kQ - 1) / kQ; }
  /// Which part of the segment step i of the walk takes.
  __device__ int part(int i) const { return walk.reverse ? steps() - 1 - i : i; }
  __device__ int tokens_from(int i) const { return segment.tokens - part(i) * kQ; }
  /// Whether the state comes into a chunk with step i.
  __device__ bool enters_chunk(int i) const {
    return walk.reverse ? part(i) % kStepsOfChunk == kStepsOfChunk - 1 || i == 0
                        : part(i) % kStepsOfChunk == 0;
  }

  __device__ Tile<T, kP> values(int i) const { return {tiles + i % kSsdSweepStages * kStage}; }
  __device__ Tile<T, kN> keys(int i) const { return {values(i).data + Tile<T, kP>::size(kQ)}; }

  /// Starts copying the rows of a step, if there is such a step. All lanes of a warp call it.
  __device__ void load(int i) const {
    if (i < steps()) {
      const long long token = segment.first + part(i) * kQ;
      const int tokens = min(kQ, tokens_from(i));
      const int group = head / (layout.heads / layout.groups);
      const long long key = static_cast<long long>(group) * layout.state_dim;
      const long long value = static_cast<long long>(head) * layout.head_dim + channel;
      const int lane = renewed(warp_lane());
      load_tokens<kQ, kWarpThreads>(
          values(i), walk.in.values, token, tokens, value, layout.head_dim - channel, lane);
      load_tokens<kQ, kWarpThreads>(
          keys(i), walk.in.keys, token, tokens, key, layout.state_dim, lane);
    }
    commit_copies();
  }

  __device__ SsdRawSteps<kQ> read_raw(int i) const {
    return read_steps<kQ>(
        time, head, segment.first + part(i) * kQ, i < steps() ? tokens_from(i) : 0);
  }
  __device__ void write_step(int i, const SsdRawSteps<kQ>& raw) const {
    if (i < steps()) {
      write_times(times[i % 2], time, head, raw, tokens_from(i));
    }
  }
};

/// The walk of the warp that keeps time.
template <typename T, int kP, int kN>
__device__ void walk_times(const SsdSweepBlock<T, kP, kN>& block) {
  block.write_step(0, block.read_raw(0));
  SsdRawSteps<kSsdStep<T>> raw = block.read_raw(1);
  double log_decay = 0;
  for (int i = 0; i < block.steps(); ++i) {
    __syncthreads(); // step i is timed, step i - 1 done with
    log_decay += block.times[i % 2].log_decay;
    block.write_step(i + 1, raw);
    raw = block.read_raw(i + 2);
  }
  float* log_decays = block.walk.out.log_decays;
  if (log_decays != nullptr && warp_lane() == 0 && block.channel == 0) {
    log_decays[static_cast<long long>(block.number) * block.layout.heads + block.head] =
        static_cast<float>(log_decay);
  }
}

/// The walk of the warp that copies.
template <typename T, int kP, int kN>
__device__ void walk_rows(const SsdSweepBlock<T, kP, kN>& block) {
#pragma unroll 1
  for (int i = 0; i < kSsdSweepStages - 1; ++i) {
    block.load(i);
  }
  for (int i = 0; i < block.steps(); ++i) {
    wait_for_copies<kSsdSweepStages - 2>();
    __syncthreads(); // step i has come, step i - 1 is done with
    block.load(i + kSsdSweepStages - 1);
  }
}

/// The walk of a warp that holds channels of the state.
template <typename T, int kP, int kN>
__device__ void walk_states(const SsdSweepBlock<T, kP, kN>& block, int warp) {
  constexpr int kQ = kSsdStep<T>;
  const SsdLayout& layout = block.layout;
  const SsdSweepOutputs& out = block.walk.out;
  const int channel = block.channel + warp * 16;
  const int column = 0;
  const int own = out.hands_on ? block.segment.sequence : block.number;
  WarpSums<16, kN> state =
      load_state<16, kN>(block.walk.in.incoming, layout, own, block.head, channel, column);
  if (out.hands_on) {
    store_state(state, out.states, layout, block.number, block.head, channel, column);
  }
  for (int i = 0; i < block.steps(); ++i) {
    const SsdTimes<kQ>& times = block.times[i % 2];
    __syncthreads(); // step i has come and is timed
    if (out.chunk_states != nullptr && block.enters_chunk(i)) {
      T* chunks = static_cast<T*>(out.chunk_states);
      const long long chunk = block.segment.chunk + block.part(i) / block.kStepsOfChunk;
      store_state(state, chunks, layout, chunk, block.head, channel, column);
    }
    Held<T, 16, kQ> scaled;
    scaled.load_transposed(block.values(i), 0, warp * 16);
    scaled.scale_columns(block.walk.reverse ? times.from_start : times.input);
    state.scale(times.decay);
    multiply<kQ>(state, left(scaled), right(block.keys(i), 0, column));
  }
  if (out.states != nullptr && !(out.hands_on && block.steps() == 0)) {
    const int next = block.number + (block.walk.reverse ? -1 : 1);
    const int entry = out.hands_on ? next : block.number;
    store_state(state, out.states, layout, entry, block.head, channel, column);
  }
}

/// One block a segment, head, tile of kP channels and walk: block ((segment H + head) tiles + tile,
/// walk).
template <typename T, int kP, int kN>
__global__ void __launch_bounds__(SsdSweepBlock<T, kP, kN>::kThreads, kN <= 128 ? 2 : 1)
    ssd_sweep(SsdLayout layout, SsdTimeInputs time, const __grid_constant__ SsdSweepWalks walks) {
  using Block = SsdSweepBlock<T, kP, kN>;
  __shared__ SsdTimes<Block::kQ> times[2];
  const SsdSweepWalk& walk = walks.of[blockIdx.y];
  const int tiles = (layout.head_dim + kP - 1) / kP;
  const int number = blockIdx.x / tiles / layout.heads;
  SsdSegment segment = find_segment(layout, number);
  if (!takes_segment(layout, walk, segment)) {
    return;
  }
  const Block block{
      layout,
      time,
      walk,
      segment,
      number,
      static_cast<int>(blockIdx.x / tiles % layout.heads),
      static_cast<int>(blockIdx.x % tiles) * kP,
      reinterpret_cast<T*>(dynamic_shared()),
      times};
  const int warp = warp_index();
  if (warp < Block::kWarps) {
    walk_states(block, warp);
  } else if (warp == Block::kTimeWarp) {
    walk_times(block);
  } else {
    walk_rows(block);
  }
}

/// states and log_decays: what the segments do to a state that passes through them (see
/// SsdSweepOutputs). Replaces each segment's state by the one that comes into it, and leaves the
/// state and the log decay of each sequence; where final_states is null, the last segment that a
/// state passes through was not walked and nothing is asked of it. kReverse walks from the last
/// segment of a sequence to the first. Block (elements of [H, P, N], sequence).
template <bool kReverse>
__global__ void __launch_bounds__(kSsdCombineThreads) ssd_combine(
    SsdLayout layout,
    SsdStates incoming,
    float* states,
    const float* log_decays,
    float* final_states,
    float* final_log_decays) {
  const int per_head = layout.head_dim * layout.state_dim;
  const long long size = static_cast<long long>(layout.heads) * per_head;
  const long long element =
      static_cast<long long>(blockIdx.x) * (kSsdCombineElements * kSsdCombineThreads) + threadIdx.x;
  const int b = blockIdx.y;
  const long long first = layout.starts[b] / layout.segment_tokens + b;
  const long long tokens = layout.starts[b + 1] - layout.starts[b];
  // A sequence without tokens has one segment.
  const int segments =
      static_cast<int>(max(1ll, (tokens + layout.segment_tokens - 1) / layout.segment_tokens));
  const int slot =
      incoming.data == nullptr ? -1 : (incoming.slots == nullptr ? b : incoming.slots[b]);
  float carried[kSsdCombineElements];
  double log_decay[kSsdCombineElements];
#pragma unroll
  for (int e = 0; e < kSsdCombineElements; ++e) {
    const long long at = element + e * kSsdCombineThreads;
    carried[e] = slot < 0 || slot >= incoming.count || at >= size
                     ? 0.0f
                     : incoming.data[slot * incoming.stride + at];
    log_decay[e] = 0;
  }
  for (int i = 0; i < segments; ++i) {
    const long long segment = first + (kReverse ? segments - 1 - i : i);
    float* own = states + segment * size;
    const bool walked = final_states != nullptr || i + 1 < segments;
    float added[kSsdCombineElements];
    float decays[kSsdCombineElements];
#pragma unroll
    for (int e = 0; e < kSsdCombineElements; ++e) {
      const long long at = element + e * kSsdCombineThreads;
      added[e] = walked && at < size ? own[at] : 0.0f;
      decays[e] = walked && at < size ? log_decays[segment * layout.heads + at / per_head] : 0.0f;
    }
#pragma unroll
    for (int e = 0; e < kSsdCombineElements; ++e) {
      const long long at = element + e * kSsdCombineThreads;
      if (at < size) {
        own[at] = carried[e];
      }
      carried[e] = fmaf(expf(decays[e]), carried[e], added[e]);
      log_decay[e] += static_cast<double>(decays[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < kSsdCombineElements; ++e) {
    const long long at = element + e * kSsdCombineThreads;
    if (final_states != nullptr && at < size) {
      final_states[b * size + at] = carried[e];
    }
    if (final_log_decays != nullptr && at < size && at % per_head == 0) {
      final_log_decays[static_cast<long long>(b) * layout.heads + at / per_head] =
          static_cast<float>(log_decay[e]);
    }
  }
}

/// Sequences as one: joined = {0, T}, and the tokens marked where they begin (see SsdTimeInputs).
/// One thread a word.
__global__ void __launch_bounds__(kSsdMarkThreads) ssd_mark_starts(
    const int* starts,
    int sequences,
    long long words,
    int* joined,
    unsigned long long* marks) {
  const long long word = static_cast<long long>(blockIdx.x) * kSsdMarkThreads + threadIdx.x;
  if (word >= words) {
    return;
  }
  if (word == 0) {
    joined[0] = 0;
    joined[1] = starts[sequences];
  }
  int b = 0; // the first sequence that begins in the word, or behind it
  int end = sequences;
  while (b < end) {
    const int middle = (b + end) / 2;
    if (starts[middle] < word * 64) {
      b = middle + 1;
    } else {
      end = middle;
    }
  }
  unsigned long long mark = 0;
  for (; b < sequences && starts[b] < (word + 1) * 64; ++b) {
    mark |= 1ull << (starts[b] % 64);
  }
  marks[word] = mark;
}

} // namespace baton
