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

/// One block for kP channels of a head in a segment: block (segment H + head) tiles + tile. Each
/// of its warps holds 16 channels times half of the padded state dim kN.
template <typename T, int kP, int kN, bool kReverse>
__global__ void __launch_bounds__(kP / 16 * 2 * kWarpThreads, sizeof(T) == 2 && kN <= 128 ? 2 : 1)
    ssd_sweep(SsdLayout layout, SsdTimeInputs time, SsdSweepInputs in, SsdSweepOutputs out) {
  constexpr int kThreads = kP / 16 * 2 * kWarpThreads;
  constexpr int kQ = kSsdStep<T>;
  constexpr int kStages = kSsdSweepStages;
  constexpr int kStepsOfChunk = kSsdChunk / kQ;
  __shared__ SsdTimes<kQ> times[2];
  const int tiles = (layout.head_dim + kP - 1) / kP;
  const int head = blockIdx.x / tiles % layout.heads;
  const int number = blockIdx.x / tiles / layout.heads;
  const SsdSegment segment = find_segment(layout, number);
  if (!segment.exists) {
    return;
  }
  const int group = head / (layout.heads / layout.groups);
  const int tile_channel = blockIdx.x % tiles * kP;
  const long long value = static_cast<long long>(head) * layout.head_dim + tile_channel;
  const long long key = static_cast<long long>(group) * layout.state_dim;
  const int steps = (segment.tokens + kQ - 1) / kQ;
  // Step i of the walk is part part_of(i) of the segment.
  const auto part_of = [&](int i) { return kReverse ? steps - 1 - i : i; };
  constexpr int kStageSize = Tile<T, kP>::size(kQ) + Tile<T, kN>::size(kQ);
  const auto stage_values = [&](int i) {
    return Tile<T, kP>{reinterpret_cast<T*>(dynamic_shared()) + i % kStages * kStageSize};
  };
  const auto stage_keys = [&](int i) {
    return Tile<T, kN>{stage_values(i).data + Tile<T, kP>::size(kQ)};
  };
  const auto load_step = [&](int i) {
    if (i < steps) {
      const int skipped = part_of(i) * kQ;
      const long long token = segment.first + skipped;
      const int tokens = min(kQ, segment.tokens - skipped);
      load_tokens<kQ, kThreads>(
          stage_values(i), in.values, token, tokens, value, layout.head_dim - tile_channel);
      load_tokens<kQ, kThreads>(stage_keys(i), in.keys, token, tokens, key, layout.state_dim);
    }
    commit_copies();
  };
  const auto read_step = [&](int i) {
    const int skipped = part_of(i) * kQ;
    return read_steps<kQ>(
        time, head, segment.first + skipped, i < steps ? segment.tokens - skipped : 0);
  };
  const auto write_step = [&](int i, const SsdRawSteps<kQ>& raw) {
    if (i < steps) {
      write_times(times[i % 2], time, head, raw, segment.tokens - part_of(i) * kQ);
    }
  };

  const int warp = warp_index();
  const bool keeps_time = warp == 0;
  const int channel = tile_channel + warp / 2 * 16;
  const int column = warp % 2 * (kN / 2);
  WarpSums<16, kN / 2> state;
  SsdRawSteps<kQ> raw;
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    load_step(i);
  }
  if (keeps_time) {
    write_step(0, read_step(0));
    raw = read_step(1);
  }
  state = load_state<16, kN / 2>(in.incoming, layout, number, head, channel, column);
  double log_decay = 0;
  for (int i = 0; i < steps; ++i) {
    wait_for_copies<kStages - 2>();
    __syncthreads(); // step i has come and is timed, step i - 1 is done with
    load_step(i + kStages - 1);
    if (keeps_time) {
      log_decay += times[i % 2].log_decay;
      write_step(i + 1, raw);
      raw = read_step(i + 2);
    }
    const int part = part_of(i);
    const bool enters_chunk =
        kReverse ? part % kStepsOfChunk == kStepsOfChunk - 1 || i == 0 : part % kStepsOfChunk == 0;
    if (out.chunk_states != nullptr && enters_chunk) {
      store_rows(
          state,
          state_at(
              static_cast<T*>(out.chunk_states),
              layout,
              segment.chunk + part / kStepsOfChunk,
              head,
              channel,
              column),
          layout.state_dim,
          layout.head_dim - channel,
          layout.state_dim - column,
          layout.state_dim % Tile<T, kN>::kGranule == 0);
    }
    const SsdTimes<kQ>& now = times[i % 2];
    Held<T, 16, kQ> scaled;
    scaled.load_transposed(stage_values(i), 0, warp / 2 * 16);
    if (kReverse) {
      scaled.scale_columns(now.from_start);
    } else {
      scaled.scale_columns(now.input);
    }
    state.scale(now.decay);
    multiply<kQ>(state, left(scaled), right(stage_keys(i), 0, column));
  }
  if (out.log_decays != nullptr && threadIdx.x == 0 && tile_channel == 0) {
    out.log_decays[static_cast<long long>(number) * layout.heads + head] =
        static_cast<float>(log_decay);
  }
  if (out.states != nullptr) {
    store_rows(
        state,
        state_at(out.states, layout, number, head, channel, column),
        layout.state_dim,
        layout.head_dim - channel,
        layout.state_dim - column,
        layout.state_dim % Tile<float, kN>::kGranule == 0);
  }
}

constexpr int kSsdCombineThreads = 256;

/// states and log_decays: what the segments do to a state that passes through them (see
/// SsdSweepOutputs). Replaces each segment's state by the one that comes into it, and leaves the
/// state and the log decay of each sequence. kReverse walks from the last segment of a sequence to
/// the first. One thread an element of [H, P, N], a row of blocks a sequence.
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
  const long long element = static_cast<long long>(blockIdx.x) * kSsdCombineThreads + threadIdx.x;
  if (element >= size) {
    return;
  }
  const int b = blockIdx.y;
  const int head = static_cast<int>(element / per_head);
  const long long first = layout.starts[b] / layout.segment_tokens + b;
  const long long tokens = layout.starts[b + 1] - layout.starts[b];
  const int segments =
      static_cast<int>((tokens + layout.segment_tokens - 1) / layout.segment_tokens);
  const int slot =
      incoming.data == nullptr ? -1 : (incoming.slots == nullptr ? b : incoming.slots[b]);
  float carried =
      slot < 0 || slot >= incoming.count ? 0.0f : incoming.data[slot * incoming.stride + element];
  double log_decay = 0;
  for (int i = 0; i < segments; ++i) {
    const long long segment = first + (kReverse ? segments - 1 - i : i);
    const float own_decay = log_decays[segment * layout.heads + head];
    float* own = states + segment * size + element;
    const float added = *own;
    *own = carried;
    carried = fmaf(expf(own_decay), carried, added);
    log_decay += static_cast<double>(own_decay);
  }
  if (final_states != nullptr) {
    final_states[b * size + element] = carried;
  }
  if (final_log_decays != nullptr && element % per_head == 0) {
    final_log_decays[static_cast<long long>(b) * layout.heads + head] =
        static_cast<float>(log_decay);
  }
}

} // namespace baton
