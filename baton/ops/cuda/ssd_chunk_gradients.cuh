// SPDX-License-Identifier: Apache-2.0
// The gradients that one chunk of tokens gives in one group of heads, once the states on both sides
// of it are known. With l the running sum of dt A in the chunk, l_Q its end, H the state that
// enters and G the gradient of the state that leaves:
//   du_j = exp(l_Q - l_j) G B_j + sum_{i >= j} exp(l_i - l_j) (C_i . B_j) dy_i,
//   dx_j = dt_j du_j + D dy_j, and x_j . du_j is dt's gradient beside that in dt A;
//   dC_i = exp(l_i) H^T dy_i + sum_j S_ij B_j, dB_j = exp(l_Q - l_j) dt_j G^T x_j + sum_i S_ij C_i,
//   where S_ij = exp(l_i - l_j) dt_j (dy_i . x_j) for j <= i is first added up over the heads;
//   the gradient of dt A at token k is what passes k: from tokens before it to tokens from it on
//   ("crossing"), from the state to tokens from it on ("carried"), from tokens before it to the
//   next state ("left"), and from state to state ("through").
// Each of these sums is added up as it stands: as differences of row and column sums they would
// cancel under strong decays.
//
// All products are of 64 x 64 tiles (wider heads in several passes, wider states in slices), of
// which each of the eight warps makes 32 rows and 16 columns.
#pragma once

#include "baton/ops/cuda/shared_memory.cuh"
#include "baton/ops/cuda/ssd_chunks.cuh"
#include "baton/ops/cuda/ssd_token_gradients.cuh"
#include "baton/ops/cuda/tile_product.cuh"

namespace baton {

/// Tiles in shared memory, by their numbers, for kSlices times 64 state dims.
template <typename T, int kSlices>
struct SsdGradientTiles {
  static constexpr bool kKeysStay = sizeof(T) == 2; ///< else they come with each slice of states
  static constexpr int kStages = kKeysStay ? (kSlices == 2 ? 3 : 2) : 1;
  static constexpr int kBuffers = kStages > 1 ? 2 : 1; ///< of x and dy
  static constexpr int kKeys = 0;
  static constexpr int kQueries = kKeys + (kKeysStay ? kSlices : kStages);
  static constexpr int kStates = kQueries + (kKeysStay ? kSlices : kStages);
  static constexpr int kStateGradients = kStates + kStages;
  static constexpr int kInputs = kStateGradients + kStages; ///< x
  static constexpr int kSlopes = kInputs + kBuffers;        ///< dy
  static constexpr int kWeights = kSlopes + kBuffers;
  static constexpr int kCount = kWeights + 1;
};

/// Beside the tiles.
struct SsdGradientScalars {
  SsdTimes<kSsdChunk> times[2]; ///< of even and odd heads
  float slopes[2][kSsdChunk];   ///< of the time steps
  SsdHeadParts parts[2];        ///< of even and odd passes
  int zero;
};

template <typename T, int kSlices>
constexpr unsigned kSsdGradientBytes =
    static_cast<unsigned>(SsdGradientTiles<T, kSlices>::kCount * kSsdChunk * kSsdGradientColumns) *
        static_cast<unsigned>(sizeof(T)) +
    static_cast<unsigned>(sizeof(SsdGradientScalars));

__device__ inline float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

/// The sum over the eight rows of a block that lanes share.
__device__ inline float rows_sum(float value) {
#pragma unroll
  for (int step = 4; step < kWarpThreads; step *= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, step);
  }
  return value;
}

__device__ inline float2 load_pair(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}
__device__ inline float2 load_pair(const __nv_bfloat16* from) {
  const unsigned bits = *reinterpret_cast<const unsigned*>(from);
  return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
}

/// The products of the values in 16 bytes with those in 16 others, added up.
__device__ inline float dot_granules(const float* a, const float* b) {
  const float4 left = *reinterpret_cast<const float4*>(a);
  const float4 right = *reinterpret_cast<const float4*>(b);
  return fmaf(left.x, right.x, left.y * right.y) + fmaf(left.z, right.z, left.w * right.w);
}
__device__ inline float dot_granules(const __nv_bfloat16* a, const __nv_bfloat16* b) {
  const uint4 left = *reinterpret_cast<const uint4*>(a);
  const uint4 right = *reinterpret_cast<const uint4*>(b);
  const unsigned lefts[4] = {left.x, left.y, left.z, left.w};
  const unsigned rights[4] = {right.x, right.y, right.z, right.w};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = fmaf(__uint_as_float(lefts[i] << 16), __uint_as_float(rights[i] << 16), sum);
    sum = fmaf(
        __uint_as_float(lefts[i] & 0xffff0000u), __uint_as_float(rights[i] & 0xffff0000u), sum);
  }
  return sum;
}

/// One block's work. Members that are arrays stay in registers: all their indices are constants.
template <typename T, int kSlices>
struct SsdChunkGradients {
  using Tiles = SsdGradientTiles<T, kSlices>;
  using Square = Tile<T, kSsdGradientColumns>;
  using Block = WarpSums<32, 16>;
  static constexpr int kAhead = Tiles::kStages - 1; ///< slices under way beside the one in use

  const SsdLayout& layout;
  const SsdTimeInputs& time;
  const SsdGradientInputs& in;
  const SsdGradientOutputs& out;
  SsdSegment chunk;
  T* tiles;
  SsdGradientScalars& scalars;
  int group;
  int part;
  int warp;
  int row;    ///< first of the warp's block in a tile
  int column; ///< likewise
  int first_head;
  int end_head;
  int passes; ///< of a head

  // What is loaded next, and where to.
  int load_head;
  int load_pass = 0;
  int load_slice = 0;
  int load_stage = 0;
  int load_buffer = 0;
  // What is in use.
  int stage = 0;
  int buffer = Tiles::kBuffers - 1;
  int turn = 0; ///< passes done
  int zero = 0;

  Block dkeys[kSlices];
  Block dqueries[kSlices];
  Block scores;  ///< transposed, C_i . B_j in row j and column i
  Block dscores; ///< likewise
  SsdTokenGradients pending;

  __device__ SsdChunkGradients(
      const SsdLayout& layout,
      const SsdTimeInputs& time,
      const SsdGradientInputs& in,
      const SsdGradientOutputs& out,
      const SsdSegment& chunk)
      : layout(layout),
        time(time),
        in(in),
        out(out),
        chunk(chunk),
        tiles(reinterpret_cast<T*>(dynamic_shared())),
        scalars(*reinterpret_cast<SsdGradientScalars*>(
            dynamic_shared() + Tiles::kCount * Square::bytes(kSsdChunk))),
        group(static_cast<int>(blockIdx.y) / out.parts),
        part(static_cast<int>(blockIdx.y) % out.parts),
        warp(static_cast<int>(threadIdx.x) / kWarpThreads),
        row(warp / 4 * 32),
        column(warp % 4 * 16) {
    const int heads = layout.heads / layout.groups;
    first_head = group * heads + heads * part / out.parts;
    end_head = group * heads + heads * (part + 1) / out.parts;
    passes = (layout.head_dim + kSsdGradientColumns - 1) / kSsdGradientColumns;
    load_head = first_head;
  }

  __device__ Square tile(int number) const {
    return {tiles + zero + number * (kSsdChunk * kSsdGradientColumns)};
  }
  __device__ Square keys(int slice) const {
    return tile(Tiles::kKeys + (Tiles::kKeysStay ? slice : stage));
  }
  __device__ Square queries(int slice) const {
    return tile(Tiles::kQueries + (Tiles::kKeysStay ? slice : stage));
  }
  __device__ Square inputs() const { return tile(Tiles::kInputs + buffer); }
  __device__ Square slopes() const { return tile(Tiles::kSlopes + buffer); }
  /// Token of the i-th (0 to 3) row that this lane owns in the warp's block.
  __device__ int own_token(int i) const { return row + i / 2 * 16 + own_row(i % 2 * 2); }
  /// The i-th (0 to 3) column, likewise.
  __device__ int own_tile_column(int i) const { return column + i / 2 * 8 + own_column(i % 2); }

  __device__ void
  load(int number, const void* from, long long at, long long stride, int rows, int columns, bool packed) {
    load_rows<kSsdChunk, kSsdGradientThreads>(
        tile(number),
        static_cast<const T*>(from) + at,
        stride,
        rows,
        columns,
        packed,
        static_cast<int>(threadIdx.x) + zero);
  }
  /// Rows of the chunk's tokens.
  __device__ void load(int number, const SsdRows& from, long long at, int columns) {
    load(
        number,
        from.data,
        chunk.first * from.stride + at,
        from.stride,
        chunk.tokens,
        columns,
        from.packed);
  }
  /// A slice of B and of C to the tiles numbered `to` among theirs.
  __device__ void load_keys(int to, int slice) {
    const int n = slice * kSsdGradientColumns;
    const long long at = static_cast<long long>(group) * layout.state_dim + n;
    load(Tiles::kKeys + to, in.keys, at, layout.state_dim - n);
    load(Tiles::kQueries + to, in.queries, at, layout.state_dim - n);
  }

  /// Starts loading the next slice of states; with a pass's first slice its x and dy.
  __device__ void start_loads() {
    if (load_head < end_head) {
      const int p = load_pass * kSsdGradientColumns;
      const int n = load_slice * kSsdGradientColumns;
      const int head_dims = layout.head_dim - p;
      const int state_dims = layout.state_dim - n;
      const long long N = layout.state_dim;
      const long long at = ((chunk.chunk * layout.heads + load_head) * layout.head_dim + p) * N + n;
      load(Tiles::kStates + load_stage, in.states, at, N, head_dims, state_dims, in.states_packed);
      load(
          Tiles::kStateGradients + load_stage,
          in.dstates,
          at,
          N,
          head_dims,
          state_dims,
          in.states_packed);
      if constexpr (!Tiles::kKeysStay) {
        load_keys(load_stage, load_slice);
      }
      if (load_slice == 0) {
        const long long to_head = static_cast<long long>(load_head) * layout.head_dim + p;
        load(Tiles::kInputs + load_buffer, in.x, to_head, head_dims);
        load(Tiles::kSlopes + load_buffer, in.dy, to_head, head_dims);
        load_buffer = load_buffer + 1 == Tiles::kBuffers ? 0 : load_buffer + 1;
      }
      load_stage = load_stage + 1 == Tiles::kStages ? 0 : load_stage + 1;
      load_slice = load_slice + 1 == kSlices ? 0 : load_slice + 1;
      load_pass += load_slice == 0 ? 1 : 0;
      load_head += load_pass == passes ? 1 : 0;
      load_pass = load_pass == passes ? 0 : load_pass;
    }
    commit_copies();
  }

  /// Makes the next slice of states the one in use.
  __device__ void next_slice() {
    stage = stage + 1 == Tiles::kStages ? 0 : stage + 1;
    if constexpr (kAhead == 0) {
      __syncthreads();
      start_loads();
      wait_for_copies<0>();
      __syncthreads();
      zero = scalars.zero;
    } else {
      wait_for_copies<kAhead - 1>();
      __syncthreads(); // all see the slice, and have left the one whose place the next load takes
      zero = scalars.zero;
      start_loads();
    }
  }

  /// Brings B and C where they do not stay: before and after the walk over the heads.
  __device__ void fetch_keys(int slice) {
    if constexpr (!Tiles::kKeysStay) {
      __syncthreads();
      load_keys(0, slice);
      commit_copies();
      wait_for_copies<0>();
      stage = 0;
    }
    __syncthreads();
  }

  __device__ void write_steps(int head) {
    const auto raw = read_steps<kSsdChunk>(time, head, chunk.first, chunk.tokens);
    write_times(scalars.times[head % 2], time, head, raw, chunk.tokens);
    const float bias = time.bias_H == nullptr ? 0.0f : time.bias_H[head];
    for (int i = 0; i < 2; ++i) {
      scalars.slopes[head % 2][2 * warp_lane() + i] = time_step_slope(time, bias, raw.values[i]);
    }
  }

  __device__ void run() {
    begin();
    for (int head = first_head; head < end_head; ++head) {
      for (int pass = 0; pass < passes; ++pass) {
        add_pass(head, pass);
      }
    }
    finish();
  }

  __device__ void begin() {
    if constexpr (Tiles::kKeysStay) {
#pragma unroll
      for (int slice = 0; slice < kSlices; ++slice) {
        load_keys(slice, slice);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        start_loads();
      }
    }
    if (warp == 0) {
      write_steps(first_head);
    }
    if constexpr (Tiles::kKeysStay) {
      wait_for_copies<kAhead - 1>();
    }
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      fetch_keys(slice);
      multiply<kSsdGradientColumns>(
          scores, left(keys(slice), row, 0), right_transposed(queries(slice), column, 0));
    }
    stage = Tiles::kStages - 1;
  }

  /// sums += factor block, row by row, and dots += the products with the rows of `with`.
  __device__ void add_rows(
      Block& sums,
      float (&dots)[4],
      const Block& block,
      const float* factors,
      Square with) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = own_token(i);
      const float factor = factors[token];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float2 other = load_pair(with.at(token, own_tile_column(2 * n)));
        const float* values = block.values[i / 2][n] + i % 2 * 2;
        float* to = sums.values[i / 2][n] + i % 2 * 2;
        dots[i] = fmaf(values[0], other.x, fmaf(values[1], other.y, dots[i]));
        to[0] = fmaf(factor, values[0], to[0]);
        to[1] = fmaf(factor, values[1], to[1]);
      }
    }
  }

  /// What a slice of the states on both sides gives; G B_j is added to du.
  __device__ void add_slice(
      const SsdTimes<kSsdChunk>& times,
      int slice,
      Block& du,
      float (&carried)[4],
      float (&left_dots)[4],
      float& through) {
    constexpr int kDepth = kSsdGradientColumns;
    const Square states = tile(Tiles::kStates + stage);
    const Square dstates = tile(Tiles::kStateGradients + stage);
    multiply<kDepth>(du, left(keys(slice), row, 0), right_transposed(dstates, column, 0));
    Block of_states;
    multiply<kDepth>(of_states, left(slopes(), row, 0), right(states, 0, column));
    add_rows(dqueries[slice], carried, of_states, times.from_start, queries(slice));
    Block of_dstates;
    multiply<kDepth>(of_dstates, left(inputs(), row, 0), right(dstates, 0, column));
    add_rows(dkeys[slice], left_dots, of_dstates, times.input, keys(slice));
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < kSsdChunk * Square::kGranules;
         i += kSsdGradientThreads) {
      const int at = i * Square::kGranule; // both are permuted alike
      through += dot_granules(states.data + at, dstates.data + at);
    }
  }

  /// Leaves the sums over the columns of the warp's block.
  __device__ void leave_dots(
      SsdHeadParts& parts,
      const float (&carried)[4],
      const float (&left_dots)[4],
      float through) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float of_carried = quad_sum(carried[i]);
      const float of_left = quad_sum(left_dots[i]);
      if (warp_lane() % 4 == 0) {
        parts.carried[warp % 4][own_token(i)] = of_carried;
        parts.left[warp % 4][own_token(i)] = of_left;
      }
    }
    through = warp_sum(through);
    if (warp_lane() == 0) {
      parts.through[warp] = through;
    }
  }

  /// From x_j . dy_i to the weights of dy_i in du_j and to the gradients of scores. Turns
  /// `products` into the terms of x_j . du_j.
  __device__ void weigh(const SsdTimes<kSsdChunk>& times, Block& products) {
    Block weights;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = own_token(i);
      const float high = times.high[j];
      const float low = times.low[j];
      const float dt = times.step[j];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int at = own_tile_column(c);
        const int e = i % 2 * 2 + c % 2;
        const float decay =
            at >= j ? exp2f((times.high[at] - high) + (times.low[at] - low)) : 0.0f;
        const float score = scores.values[i / 2][c / 2][e];
        float& product = products.values[i / 2][c / 2][e];
        float& dscore = dscores.values[i / 2][c / 2][e];
        weights.values[i / 2][c / 2][e] = score * decay;
        product *= decay;
        dscore = fmaf(dt, product, dscore);
        product *= score;
      }
    }
    store_sums(weights, tile(Tiles::kWeights), row, column);
  }

  /// Of the terms of row j in columns i: adds dt_j times their sum over i >= k, within the warp's
  /// block, to crossing k > j. Leaves the rows' sums.
  __device__ void sum_suffixes(
      const SsdTimes<kSsdChunk>& times,
      SsdHeadParts& parts,
      const Block& terms,
      float (&crossing)[4]) {
    const int lane = warp_lane() % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = own_token(i);
      const float dt = times.step[j];
      float beyond = 0; // of the columns to the right of the current eight
#pragma unroll
      for (int n = 1; n >= 0; --n) {
        const float* values = terms.values[i / 2][n] + i % 2 * 2;
        const float pair = values[0] + values[1];
        const float next = __shfl_down_sync(0xffffffffu, pair, 1);
        const float third = __shfl_down_sync(0xffffffffu, pair, 2);
        const float fourth = __shfl_down_sync(0xffffffffu, pair, 3);
        const float right_of =
            (lane < 3 ? next : 0.0f) + (lane < 2 ? third : 0.0f) + (lane < 1 ? fourth : 0.0f);
        const float all =
            __shfl_sync(0xffffffffu, right_of + pair, warp_lane() - lane);
        const float odd = values[1] + (right_of + beyond);
        const float even = values[0] + odd;
        crossing[2 * n] += own_tile_column(2 * n) > j ? dt * even : 0.0f;
        crossing[2 * n + 1] += own_tile_column(2 * n + 1) > j ? dt * odd : 0.0f;
        beyond += all;
      }
      if (lane == 0) {
        parts.inside[warp % 4][j] = beyond;
      }
    }
  }

  /// Adds what the warps to the right have in the rows, and leaves the sums over the rows.
  __device__ void
  leave_crossing(const SsdTimes<kSsdChunk>& times, SsdHeadParts& parts, float (&crossing)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = own_token(i);
      float beyond = 0;
      for (int other = warp % 4 + 1; other < 4; ++other) {
        beyond += parts.inside[other][j];
      }
      beyond *= times.step[j];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        crossing[c] += own_tile_column(c) > j ? beyond : 0.0f;
      }
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float sum = rows_sum(crossing[c]);
      if (warp_lane() < 4) {
        parts.crossing[warp / 4][own_tile_column(c)] = sum;
      }
    }
  }

  /// Turns du into dx and writes it; leaves the sums over the block's rows for dD.
  __device__ void write_inputs(
      const SsdTimes<kSsdChunk>& times,
      SsdHeadParts& parts,
      Block& du,
      int head,
      int pass) {
    const int p = pass * kSsdGradientColumns;
    float skip[4] = {0, 0, 0, 0};
    float products[4] = {0, 0, 0, 0};
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int channel = p + own_tile_column(c);
      if (in.D != nullptr && channel < layout.head_dim) {
        skip[c] = in.D[head * in.D_head_stride + channel * in.D_channel_stride];
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = own_token(i);
      const float dt = times.step[token];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float2 slope = load_pair(slopes().at(token, own_tile_column(2 * n)));
        const float2 input = load_pair(inputs().at(token, own_tile_column(2 * n)));
        products[2 * n] = fmaf(slope.x, input.x, products[2 * n]);
        products[2 * n + 1] = fmaf(slope.y, input.y, products[2 * n + 1]);
        float* values = du.values[i / 2][n] + i % 2 * 2;
        values[0] = fmaf(skip[2 * n], slope.x, dt * values[0]);
        values[1] = fmaf(skip[2 * n + 1], slope.y, dt * values[1]);
      }
    }
    const long long stride = static_cast<long long>(layout.heads) * layout.head_dim;
    store_rows(
        du,
        static_cast<T*>(out.dx) + (chunk.first + row) * stride +
            static_cast<long long>(head) * layout.head_dim + p + column,
        stride,
        chunk.tokens - row,
        layout.head_dim - p - column,
        layout.head_dim % Square::kGranule == 0);
    if (in.D != nullptr) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float sum = rows_sum(products[c]);
        if (warp_lane() < 4) {
          parts.skip[warp / 4][own_tile_column(c)] = sum;
        }
      }
    }
  }

  /// One tile's width of a head.
  __device__ void add_pass(int head, int pass) {
    const SsdTimes<kSsdChunk>& times = scalars.times[head % 2];
    SsdHeadParts& parts = scalars.parts[turn % 2];
    buffer = buffer + 1 == Tiles::kBuffers ? 0 : buffer + 1;
    Block du;
    {
      float carried[4] = {0, 0, 0, 0};
      float left_dots[4] = {0, 0, 0, 0};
      float through = 0;
#pragma unroll
      for (int slice = 0; slice < kSlices; ++slice) {
        next_slice();
        if (slice == 0 && warp == 1 && turn > 0) {
          finish_pass(pass == 0 ? head - 1 : head, (pass == 0 ? passes : pass) - 1);
        }
        add_slice(times, slice, du, carried, left_dots, through);
      }
      leave_dots(parts, carried, left_dots, through);
    }
    float crossing[4] = {0, 0, 0, 0};
    {
      Block products;
      if (column + 16 > row) { // else i < j in all of the block
        multiply<kSsdGradientColumns>(
            products, left(inputs(), row, 0), right_transposed(slopes(), column, 0));
      }
      weigh(times, products);
      sum_suffixes(times, parts, products, crossing);
    }
    __syncthreads();
    zero = scalars.zero;
    if (warp == 0 && pass + 1 == passes && head + 1 < end_head) {
      write_steps(head + 1);
    }
    du.scale_rows(times.to_end + row);
    const Square weights = tile(Tiles::kWeights);
    if (row == 0) {
      multiply<32>(du, left(weights, 0, 0), right(slopes(), 0, column));
    }
    multiply<32>(du, left(weights, row, 32), right(slopes(), 32, column));
    leave_crossing(times, parts, crossing);
    write_inputs(times, parts, du, head, pass);
    ++turn;
  }

  /// What is left to do for the last pass, when all warps have left their parts. One warp does it.
  __device__ void finish_pass(int head, int pass) {
    const SsdTimes<kSsdChunk>& times = scalars.times[head % 2];
    const SsdHeadParts& parts = scalars.parts[(turn + 1) % 2];
    add_parts(pending, times, parts);
    if (in.D != nullptr) {
      write_skip_sums(parts, head, pass);
    }
    if (pass + 1 == passes) {
      write_token_gradients(
          layout, time, out, times, scalars.slopes[head % 2], pending, head, chunk);
      pending = {};
    }
  }

  __device__ void write_skip_sums(const SsdHeadParts& parts, int head, int pass) {
    float* sums = out.chunk_sums + chunk.chunk * (2ll * layout.heads + out.dD_columns) +
                  2ll * layout.heads;
    if (in.D_channel_stride == 0) {
      const int channel = warp_lane();
      const float all = warp_sum(
          (parts.skip[0][channel] + parts.skip[1][channel]) +
          (parts.skip[0][channel + kWarpThreads] + parts.skip[1][channel + kWarpThreads]));
      if (warp_lane() == 0) {
        sums[head * passes + pass] = all;
      }
      return;
    }
    for (int channel = warp_lane(); channel < kSsdGradientColumns; channel += kWarpThreads) {
      const int p = pass * kSsdGradientColumns + channel;
      if (p < layout.head_dim) {
        sums[static_cast<long long>(head) * layout.head_dim + p] =
            parts.skip[0][channel] + parts.skip[1][channel];
      }
    }
  }

  /// From the gradients of the scores, summed over the heads, to those of B and C.
  __device__ void finish() {
    const Square weights = tile(Tiles::kWeights);
    __syncthreads();
    if (warp == 1) {
      finish_pass(end_head - 1, passes - 1);
    }
    store_sums(dscores, weights, row, column);
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      fetch_keys(slice);
      multiply<kSsdChunk>(dkeys[slice], left(weights, row, 0), right(queries(slice), 0, column));
      multiply<kSsdChunk>(
          dqueries[slice], left_transposed(weights, 0, row), right(keys(slice), 0, column));
      if (out.parts == 1) {
        write_keys(static_cast<T*>(out.dkeys), dkeys[slice], slice);
        write_keys(static_cast<T*>(out.dqueries), dqueries[slice], slice);
      } else {
        write_keys(static_cast<float*>(out.dkeys), dkeys[slice], slice);
        write_keys(static_cast<float*>(out.dqueries), dqueries[slice], slice);
      }
    }
  }

  template <typename Out>
  __device__ void write_keys(Out* to, const Block& sums, int slice) {
    const int n = slice * kSsdGradientColumns + column;
    const long long stride = static_cast<long long>(layout.groups) * layout.state_dim;
    constexpr int kGranule = 16 / static_cast<int>(sizeof(Out));
    store_rows(
        sums,
        to + (part * out.tokens + chunk.first + row) * stride +
            static_cast<long long>(group) * layout.state_dim + n,
        stride,
        chunk.tokens - row,
        layout.state_dim - n,
        layout.state_dim % kGranule == 0);
  }
};

} // namespace baton
