// SPDX-License-Identifier: Apache-2.0
// The forward scan by chunks (Dao and Gu, "Transformers are SSMs", 2024, section 6). A block walks
// over a segment with the state of a head in registers, kSsdStep tokens at a time:
//   y_i = exp(l_i) h C_i + sum_{j <= i} (C_i . B_j) exp(l_i - l_j) dt_j x_j + D x_i
//   h <- exp(l_last) h + sum_j dt_j exp(l_last - l_j) x_j B_j^T
// where l_i is the sum of dt A over the step's tokens up to i.
#include "baton/ops/cuda/fast_math.cuh"
#include "baton/ops/cuda/shared_memory.cuh"
#include "baton/ops/cuda/ssd_chunks.cuh"
#include "baton/ops/cuda/tile_product.cuh"

namespace baton {

/// Where a block of ssd_forward works.
struct SsdForwardPlace {
  SsdSegment segment;
  int number; ///< of the segment
  int head;
  int channel; ///< first of the block's, within the head
};

/// What a block of ssd_forward works on: kP channels of a head in a segment. Its first kWarps warps
/// make a part of each step's weights; those that have channels hold the state, 16 channels times
/// the padded state dim kN each, and make the outputs. One more warp makes time steps, and one
/// copies rows. All meet once a step: when its weights are there, and the next step has come and is
/// timed.
template <typename T, int kP, int kN>
struct SsdForwardBlock {
  static constexpr int kQ = kSsdStep<T>;
  static constexpr int kWarps = 4;
  static constexpr int kTimeWarp = kWarps;
  static constexpr int kThreads = (kWarps + 2) * kWarpThreads;
  static constexpr int kOutputWarps = kP / 16;
  /// Warps that share 16 rows of the weights, and the columns that each of them takes.
  static constexpr int kWarpsOfRows = kWarps * 16 / kQ;
  static constexpr int kWeightColumns = kQ / kWarpsOfRows;
  static constexpr int kValues = Tile<T, kP>::size(kQ);
  static constexpr int kKeys = Tile<T, kN>::size(kQ);
  static constexpr int kWeights = Tile<T, kQ>::size(kQ);

  const SsdLayout& layout;
  const SsdTimeInputs& time;
  const SsdForwardInputs& in;

  // What is in shared memory, the place too, for want of registers.
  __device__ static SsdForwardPlace& place() {
    __shared__ SsdForwardPlace place;
    return place;
  }
  __device__ static SsdTimes<kQ>& times(int step) {
    __shared__ SsdTimes<kQ> times[2];
    return times[step % 2];
  }
  /// D of the block's channels; 0 where there is none.
  __device__ static float* skip() {
    __shared__ float skip[kP];
    return skip;
  }
  __device__ static T* tiles() { return reinterpret_cast<T*>(dynamic_shared()); }

  __device__ int steps() const { return (place().segment.tokens + kQ - 1) / kQ; }
  __device__ int tokens_from(int step) const { return place().segment.tokens - step * kQ; }

  // Rows of the step that is worked on and of the next; of x and of the weights also those of the
  // one before, whose outputs are still made.
  __device__ Tile<T, kP> x(int step) const { return {tiles() + step % 3 * kValues}; }
  __device__ Tile<T, kN> B(int step) const {
    return {tiles() + 3 * kValues + step % 2 * (2 * kKeys)};
  }
  __device__ Tile<T, kN> C(int step) const { return {B(step).data + kKeys}; }
  /// (C_i . B_j) exp(l_i - l_j) dt_j for j <= i, [kQ, kQ].
  __device__ Tile<T, kQ> weights(int step) const {
    return {tiles() + 3 * kValues + 4 * kKeys + step % 2 * kWeights};
  }

  /// Starts copying the rows of a step, if there is such a step. All lanes of a warp call it.
  __device__ void load(int step) const {
    if (step < steps()) {
      const long long token = place().segment.first + static_cast<long long>(step) * kQ;
      const int tokens = min(kQ, tokens_from(step));
      const int group = place().head / (layout.heads / layout.groups);
      const long long key = static_cast<long long>(group) * layout.state_dim;
      const long long value =
          static_cast<long long>(place().head) * layout.head_dim + place().channel;
      const int lane = renewed(warp_lane());
      load_tokens<kQ, kWarpThreads>(C(step), in.C, token, tokens, key, layout.state_dim, lane);
      load_tokens<kQ, kWarpThreads>(B(step), in.B, token, tokens, key, layout.state_dim, lane);
      load_tokens<kQ, kWarpThreads>(
          x(step), in.x, token, tokens, value, layout.head_dim - place().channel, lane);
    }
    commit_copies();
  }

  __device__ SsdRawSteps<kQ> read_raw(int step) const {
    return read_steps<kQ>(
        time,
        place().head,
        place().segment.first + static_cast<long long>(step) * kQ,
        step < steps() ? tokens_from(step) : 0);
  }
  __device__ void write_step(int step, const SsdRawSteps<kQ>& raw) const {
    if (step < steps()) {
      write_times(times(step), time, place().head, raw, tokens_from(step));
    }
  }
};

/// The weights of rows first_row to first_row + 15 and kColumns columns from first_column on, up to
/// the last 16 x 16 block that holds some.
template <int kN, int kColumns, typename T, int kQ>
__device__ void write_weights(
    Tile<T, kN> B,
    Tile<T, kN> C,
    const SsdTimes<kQ>& times,
    int first_row,
    int first_column,
    Tile<T, kQ> weights) {
  WarpSums<16, kColumns> scores;
  const int columns = first_row + 16 - first_column;
  multiply<kN>(scores, left(C, first_row), right_transposed(B, first_column), columns);
  const int lane = renewed(warp_lane());
  const int rows[2] = {first_row + own_row(0, lane), first_row + own_row(2, lane)};
  const float high[2] = {times.high[rows[0]], times.high[rows[1]]};
  const float low[2] = {times.low[rows[0]], times.low[rows[1]]};
#pragma unroll
  for (int n = 0; n < kColumns; n += 16) {
    if (n < columns) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        float(&score)[4] = scores.values[0][n / 8 + part];
        const int from = first_column + n + part * 8 + own_column(0, lane);
        const float2 high_from = load_pair(times.high + from);
        const float2 low_from = load_pair(times.low + from);
        const float2 step = load_pair(times.step + from);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float decay = fast_exp2((high[i] - high_from.x) + (low[i] - low_from.x));
          const float next = fast_exp2((high[i] - high_from.y) + (low[i] - low_from.y));
          store_pair(
              weights.at(rows[i], from),
              from <= rows[i] ? score[2 * i] * (decay * step.x) : 0.0f,
              from < rows[i] ? score[2 * i + 1] * (next * step.y) : 0.0f);
        }
      }
    }
  }
}

/// y = out + D x for 16 channels of a step, the first of them tile_channel of the block's, by way
/// of their columns of the tile of x, which no other warp reads.
template <typename T, int kP, int kN>
__device__ void put_outputs(
    const SsdForwardBlock<T, kP, kN>& block,
    int step,
    const WarpSums<kSsdStep<T>, 16>& out,
    int tile_channel,
    T* y) {
  constexpr int kQ = kSsdStep<T>;
  constexpr int kGranule = Tile<T, kP>::kGranule;
  constexpr int kGranules = 16 / kGranule;
  const Tile<T, kP> tile = block.x(step);
  const int lane = renewed(warp_lane());
  if constexpr (sizeof(T) == 4) {
    __syncwarp(); // all lanes have read x; of bf16 they read it together
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float2 D = load_pair(block.skip() + tile_channel + n * 8 + own_column(0, lane));
#pragma unroll
    for (int m = 0; m < kQ / 16; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        T* at = tile.at(m * 16 + own_row(2 * i, lane), tile_channel + n * 8 + own_column(0, lane));
        const float2 x = load_pair(at);
        const float(&sums)[4] = out.values[m][n];
        store_pair(at, fmaf(D.x, x.x, sums[2 * i]), fmaf(D.y, x.y, sums[2 * i + 1]));
      }
    }
  }
  __syncwarp();
  const SsdForwardPlace& place = block.place();
  const long long token = place.segment.first + static_cast<long long>(step) * kQ;
  y += (token * block.layout.heads + place.head) * block.layout.head_dim + place.channel +
       tile_channel;
  const int rows = min(block.tokens_from(step), kQ);
  const int head_dim = block.layout.head_dim;
  const int stride = block.layout.heads * head_dim;
  const int columns = head_dim - place.channel - tile_channel;
  if (head_dim % kGranule == 0 && columns >= 16) {
    const int column = lane % kGranules * kGranule;
#pragma unroll
    for (int done = 0; done < kQ; done += kWarpThreads / kGranules) {
      const int row = done + lane / kGranules;
      if (row < rows) {
        *reinterpret_cast<uint4*>(y + row * stride + column) =
            *reinterpret_cast<const uint4*>(tile.at(row, tile_channel + column));
      }
    }
    return;
  }
#pragma unroll 1
  for (int i = lane; i < rows * 16; i += kWarpThreads) {
    if (i % 16 < columns) {
      y[i / 16 * stride + i % 16] = *tile.at(i / 16, tile_channel + i % 16);
    }
  }
}

/// The loop of the warp that keeps time.
template <typename T, int kP, int kN>
__device__ void walk_times(const SsdForwardBlock<T, kP, kN>& block) {
  block.write_step(0, block.read_raw(0));
  SsdRawSteps<kSsdStep<T>> raw = block.read_raw(1);
  __syncthreads();
  for (int i = 0; i < block.steps(); ++i) {
    block.write_step(i + 1, raw);
    raw = block.read_raw(i + 2);
    __syncthreads();
  }
}

/// The loop of the warp that copies.
template <typename T, int kP, int kN>
__device__ void walk_rows(const SsdForwardBlock<T, kP, kN>& block) {
  block.load(0);
  for (int i = 0; i <= block.steps(); ++i) {
    wait_for_copies<0>();
    __syncthreads();
    block.load(i + 1);
  }
}

/// The loop of the warps that multiply.
template <typename T, int kP, int kN>
__device__ void
walk_products(const SsdForwardBlock<T, kP, kN>& block, int warp, T* y, float* states) {
  using Block = SsdForwardBlock<T, kP, kN>;
  constexpr int kQ = kSsdStep<T>;
  const SsdLayout& layout = block.layout;
  const bool makes_outputs = Block::kOutputWarps == Block::kWarps || warp < Block::kOutputWarps;
  const SsdForwardPlace& place = block.place();
  WarpSums<16, kN> state;
  if (makes_outputs) {
    state = load_state<16, kN>(
        block.in.incoming, layout, place.number, place.head, place.channel + warp * 16, 0);
  }
  __syncthreads();
  for (int i = 0; i < block.steps(); ++i) {
    const SsdTimes<kQ>& times = block.times(i);
    const int tile_channel = renewed(warp * 16);
    // Later rows are more work, so the warps take turns.
    const int part = (warp + i) % Block::kWarps;
    const int row = part / Block::kWarpsOfRows * 16;
    const int column = part % Block::kWarpsOfRows * Block::kWeightColumns;
    constexpr int kColumns = Block::kWeightColumns < 32 ? Block::kWeightColumns : 32;
#pragma unroll 1
    for (int n = 0; n < min(Block::kWeightColumns, row + 16 - column); n += kColumns) {
      write_weights<kN, kColumns>(block.B(i), block.C(i), times, row, column + n, block.weights(i));
    }
    WarpSums<kQ, 16> out;
    if (makes_outputs) {
      multiply<kN>(out, left(block.C(i)), right_transposed<T>(state));
      out.scale_rows(times.from_start);
      if constexpr (kN > 128) {
        __syncwarp(); // the compiler reads nothing ahead of it, for want of registers
      }
      Held<T, 16, kQ> x;
      x.load_transposed(block.x(i), 0, tile_channel);
      x.scale_columns(times.input);
      state.scale(times.decay);
      if constexpr (kN > 128) {
        __syncwarp(); // the compiler reads nothing ahead of it, for want of registers
      }
      multiply<kQ>(state, left(x), right(block.B(i)));
    }
    __syncthreads();
    if (makes_outputs) {
      multiply<kQ, Shape::kLower>(out, left(block.weights(i)), right(block.x(i), 0, tile_channel));
      put_outputs(block, i, out, tile_channel, y);
    }
  }
  if (makes_outputs && states != nullptr && ends_walk(layout, place.segment, /*reverse=*/false)) {
    store_state(
        state,
        states,
        layout,
        place.segment.sequence,
        place.head,
        place.channel + renewed(warp * 16),
        0);
  }
}

/// One block a segment, head and tile of kP channels: block (segment H + head) tiles + tile. y is
/// dense [T, H, P]; states, if not null, receives what leaves each sequence, [B, H, P, N].
template <typename T, int kP, int kN>
__global__ void __launch_bounds__(SsdForwardBlock<T, kP, kN>::kThreads, kN <= 128 ? 2 : 1)
    ssd_forward(SsdLayout layout, SsdTimeInputs time, SsdForwardInputs in, T* y, float* states) {
  using Block = SsdForwardBlock<T, kP, kN>;
  if (threadIdx.x == 0) {
    const int tiles = (layout.head_dim + kP - 1) / kP;
    const int number = blockIdx.x / tiles / layout.heads;
    Block::place() = {
        find_segment(layout, number),
        number,
        static_cast<int>(blockIdx.x / tiles % layout.heads),
        static_cast<int>(blockIdx.x % tiles) * kP};
  }
  __syncthreads();
  if (!Block::place().segment.exists) {
    return;
  }
  const Block block{layout, time, in};
  if (threadIdx.x < kP) {
    const int channel = Block::place().channel + static_cast<int>(threadIdx.x);
    Block::skip()[threadIdx.x] =
        in.D.data != nullptr && channel < layout.head_dim
            ? in.D.data[Block::place().head * in.D.head_stride + channel * in.D.channel_stride]
            : 0.0f;
  }
  const int warp = warp_index();
  if (warp < Block::kWarps) {
    walk_products(block, warp, y, states);
  } else if (warp == Block::kTimeWarp) {
    walk_times(block);
  } else {
    walk_rows(block);
  }
}

} // namespace baton
