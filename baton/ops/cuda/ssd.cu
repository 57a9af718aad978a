// SPDX-License-Identifier: Apache-2.0
// The forward scan by chunks (Dao and Gu, "Transformers are SSMs", 2024, section 6). A block walks
// over a segment with the state of a head in registers, kSsdStep tokens at a time:
//   y_i = exp(l_i) h C_i + sum_{j <= i} (C_i . B_j) exp(l_i - l_j) dt_j x_j + D x_i
//   h <- exp(l_last) h + sum_j dt_j exp(l_last - l_j) x_j B_j^T
// where l_i is the sum of dt A over the step's tokens up to i.
#include "baton/ops/cuda/shared_memory.cuh"
#include "baton/ops/cuda/ssd_chunks.cuh"
#include "baton/ops/cuda/tile_product.cuh"

namespace baton {

/// What a block of ssd_forward works on: kP channels of a head in a segment. Its first kP / 16
/// warps hold the state, 16 channels times the padded state dim kN each, and make the outputs; the
/// other kSsdStep / 16 warps make the weights of 16 tokens each, and the time steps. Both loops
/// over the steps meet at two barriers a step: when it has come and is timed, and when its weights
/// are there.
template <typename T, int kP, int kN>
struct SsdForwardBlock {
  static constexpr int kQ = kSsdStep<T>;
  static constexpr int kOutputWarps = kP / 16;
  /// Threads that copy rows: as many of the block's as divide a tile.
  static constexpr int kCopyThreads = (kP + kQ) / 16 * kWarpThreads >= 256 ? 256 : 128;
  static constexpr int kStage = Tile<T, kP>::size(kQ) + 2 * Tile<T, kN>::size(kQ);

  const SsdLayout& layout;
  const SsdTimeInputs& time;
  const SsdForwardInputs& in;
  SsdSegment segment;
  int number; ///< of the segment
  int head;
  int channel; ///< first of the block's, within the head
  T* tiles;    ///< shared memory: rows of two steps, weights
  SsdTimes<kQ>* times;

  __device__ int steps() const { return (segment.tokens + kQ - 1) / kQ; }
  __device__ int tokens_from(int step) const { return segment.tokens - step * kQ; }

  // The rows of the step that is worked on, and of the next.
  __device__ Tile<T, kP> x(int step) const { return {tiles + step % 2 * kStage}; }
  __device__ Tile<T, kN> B(int step) const { return {x(step).data + Tile<T, kP>::size(kQ)}; }
  __device__ Tile<T, kN> C(int step) const { return {B(step).data + Tile<T, kN>::size(kQ)}; }
  /// (C_i . B_j) exp(l_i - l_j) dt_j for j <= i, [kQ, kQ].
  __device__ Tile<T, kQ> weights() const { return {tiles + 2 * kStage}; }

  /// Starts copying the rows of a step, if there is such a step. All threads call it.
  __device__ void load(int step) const {
    if (step < steps() && threadIdx.x < kCopyThreads) {
      const int thread = renewed(static_cast<int>(threadIdx.x));
      const long long token = segment.first + static_cast<long long>(step) * kQ;
      const int tokens = min(kQ, tokens_from(step));
      const int group = head / (layout.heads / layout.groups);
      const long long key = static_cast<long long>(group) * layout.state_dim;
      const long long value = static_cast<long long>(head) * layout.head_dim + channel;
      load_tokens<kQ, kCopyThreads>(C(step), in.C, token, tokens, key, layout.state_dim, thread);
      load_tokens<kQ, kCopyThreads>(B(step), in.B, token, tokens, key, layout.state_dim, thread);
      load_tokens<kQ, kCopyThreads>(
          x(step), in.x, token, tokens, value, layout.head_dim - channel, thread);
    }
    commit_copies();
  }

  __device__ SsdRawSteps<kQ> read_raw(int step) const {
    return read_steps<kQ>(
        time,
        head,
        segment.first + static_cast<long long>(step) * kQ,
        step < steps() ? tokens_from(step) : 0);
  }

  /// Waits until a step has come and is timed and the one before is done with; then starts copying
  /// the next.
  __device__ void enter(int step) const {
    wait_for_copies<0>();
    __syncthreads();
    load(step + 1);
  }
};

/// Rows first_row to first_row + 15 of the weights, up to the last 16 x 16 block that holds some.
template <int kN, typename T, int kQ>
__device__ void write_weights(
    Tile<T, kN> B,
    Tile<T, kN> C,
    const SsdTimes<kQ>& times,
    int first_row,
    Tile<T, kQ> weights) {
  WarpSums<16, kQ> scores;
  const int columns = first_row + 16;
  multiply<kN>(scores, left(C, first_row, 0), right_transposed(B), columns);
#pragma unroll
  for (int n = 0; n < kQ / 8; ++n) {
    if (n * 8 < columns) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int to = first_row + own_row(i);
        const int from = n * 8 + own_column(i);
        float& score = scores.values[0][n][i];
        score = from <= to ? score * times.between(from, to) * times.step[from] : 0.0f;
      }
    }
  }
  store_sums(scores, weights, first_row, 0, columns);
}

/// y += D x for 16 channels, the first of them `channel` of the head and `tile_channel` of the
/// tile.
template <typename T, int kQ, int kP>
__device__ void add_skip(
    WarpSums<kQ, 16>& y,
    const SsdSkipInputs& in,
    int head,
    int head_dim,
    int channel,
    Tile<T, kP> x,
    int tile_channel) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int own = n * 8 + own_column(0);
    const float* D = in.data + head * in.head_stride + (channel + own) * in.channel_stride;
    const float first = channel + own < head_dim ? D[0] : 0.0f;
    const float second = channel + own + 1 < head_dim ? D[in.channel_stride] : 0.0f;
#pragma unroll
    for (int m = 0; m < kQ / 16; ++m) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const float2 pair = load_pair(x.at(m * 16 + own_row(i), tile_channel + own));
        y.values[m][n][i] = fmaf(first, pair.x, y.values[m][n][i]);
        y.values[m][n][i + 1] = fmaf(second, pair.y, y.values[m][n][i + 1]);
      }
    }
  }
}

/// The loop of the warps that make weights; the first of them keeps the time too.
template <typename T, int kP, int kN>
__device__ void walk_weights(const SsdForwardBlock<T, kP, kN>& block, int warp) {
  constexpr int kQ = kSsdStep<T>;
  const bool keeps_time = warp == 0;
  SsdRawSteps<kQ> raw;
  block.load(0);
  if (keeps_time) {
    write_times(block.times[0], block.time, block.head, block.read_raw(0), block.tokens_from(0));
    raw = block.read_raw(1);
  }
  for (int i = 0; i < block.steps(); ++i) {
    block.enter(i);
    // Later rows are more work, so the warps take turns.
    const int rows = (warp + i) % (kQ / 16) * 16;
    write_weights(block.B(i), block.C(i), block.times[i % 2], rows, block.weights());
    __syncthreads();
    if (keeps_time && i + 1 < block.steps()) {
      SsdTimes<kQ>& next = block.times[(i + 1) % 2];
      write_times(next, block.time, block.head, raw, block.tokens_from(i + 1));
      raw = block.read_raw(i + 2);
    }
  }
}

/// The loop of the warps that hold the state and make outputs.
template <typename T, int kP, int kN>
__device__ void
walk_outputs(const SsdForwardBlock<T, kP, kN>& block, int warp, T* y, float* states) {
  constexpr int kQ = kSsdStep<T>;
  const SsdLayout& layout = block.layout;
  block.load(0);
  WarpSums<16, kN> state = load_state<16, kN>(
      block.in.incoming, layout, block.number, block.head, block.channel + warp * 16, 0);
  for (int i = 0; i < block.steps(); ++i) {
    const int tile_channel = renewed(warp * 16);
    const int channel = block.channel + tile_channel;
    const SsdTimes<kQ>& times = block.times[i % 2];
    block.enter(i);
    WarpSums<kQ, 16> out;
    multiply<kN>(out, left(block.C(i)), right_transposed<T>(state));
    out.scale_rows(times.from_start);
    __syncthreads();
    multiply<kQ, Shape::kLower>(out, left(block.weights()), right(block.x(i), 0, tile_channel));
    if (block.in.D.data != nullptr) {
      add_skip(out, block.in.D, block.head, layout.head_dim, channel, block.x(i), tile_channel);
    }
    const long long token = block.segment.first + static_cast<long long>(i) * kQ;
    store_rows(
        out,
        y + (token * layout.heads + block.head) * layout.head_dim + channel,
        layout.heads * layout.head_dim,
        block.tokens_from(i),
        layout.head_dim - channel,
        layout.head_dim % Tile<T, kP>::kGranule == 0);
    Held<T, 16, kQ> x; // not before the outputs have left: registers are for two blocks
    x.load_transposed(block.x(i), 0, tile_channel);
    x.scale_columns(times.input);
    state.scale(times.decay);
    multiply<kQ>(state, left(x), right(block.B(i)));
  }
  if (states != nullptr && ends_walk(layout, block.segment, /*reverse=*/false)) {
    store_state(
        state, states, layout, block.segment.sequence, block.head, block.channel + warp * 16, 0);
  }
}

/// One block a segment, head and tile of kP channels: block (segment H + head) tiles + tile. y is
/// dense [T, H, P]; states, if not null, receives what leaves each sequence, [B, H, P, N].
template <typename T, int kP, int kN>
__global__ void __launch_bounds__(
    (kP + kSsdStep<T>) / 16 * kWarpThreads,
    sizeof(T) == 2 && kP == 64 && kN <= 128 ? 2 : 1)
    ssd_forward(SsdLayout layout, SsdTimeInputs time, SsdForwardInputs in, T* y, float* states) {
  using Block = SsdForwardBlock<T, kP, kN>;
  __shared__ SsdTimes<Block::kQ> times[2];
  const int tiles = (layout.head_dim + kP - 1) / kP;
  const int number = blockIdx.x / tiles / layout.heads;
  const Block block{
      layout,
      time,
      in,
      find_segment(layout, number),
      number,
      static_cast<int>(blockIdx.x / tiles % layout.heads),
      static_cast<int>(blockIdx.x % tiles) * kP,
      reinterpret_cast<T*>(dynamic_shared()),
      times};
  if (!block.segment.exists) {
    return;
  }
  const int warp = warp_index();
  if (warp < Block::kOutputWarps) {
    walk_outputs(block, warp, y, states);
  } else {
    walk_weights(block, warp - Block::kOutputWarps);
  }
}

} // namespace baton
