// SPDX-License-Identifier: Apache-2.0
// The warps of a block that make the gradient of x, and what the gradients of time steps and of
// scores take of it (ssd_gradient_block.cuh). They bring the tiles for all warps, too.
#pragma once

#include "baton/ops/cuda/ssd_gradient_block.cuh"

namespace baton {

template <typename T, int kSlices, int kOwner>
struct SsdInputGradients {
  using Plan = SsdGradientPlan<sizeof(T), kSlices, kOwner>;
  using Square = Tile<T, kSsdGradientColumns>;
  static constexpr int kThreads = kSsdGradientThreads / 2;
  static constexpr int kWeighPhase = Plan::kPhases - 2;
  /// The warp that makes time steps: it has nothing of the products dy_i . x_j with i >= j.
  static constexpr int kTimeWarp = 4;

  const SsdGradientBlock<T, kSlices, kOwner>& block;
  const SsdTimeInputs& time;
  int thread;
  SsdWarpPlace place;

  __device__ SsdInputGradients(
      const SsdGradientBlock<T, kSlices, kOwner>& block,
      const SsdTimeInputs& time)
      : block(block), time(time), thread(block.thread()), place(thread / kWarpThreads) {}

  __device__ void run() {
    SsdWarpBlock scores; // transposed, C_i . B_j in row j and column i
    SsdWarpBlock dscores;
    begin(scores);
#pragma unroll 1
    for (int turn = 0; turn < block.work().turns; ++turn) {
      add_pass(scores, dscores, turn);
    }
    __syncthreads();
    write_sums(block.work().turns - 1);
    store_sums(dscores, block.tile(Plan::kWeights), place.row, place.column);
    __syncthreads();
    if constexpr (!Plan::kKeysStay) {
      for (int slice = 0; slice < Plan::kOwn; ++slice) {
        fetch_keys(slice);
      }
    }
  }

  /// See SsdGradientBlock::thread().
  __device__ void renew() {
    thread = block.thread();
    place = SsdWarpPlace(thread / kWarpThreads);
  }

  __device__ void load(
      int number,
      const void* from,
      long long at,
      long long stride,
      int rows,
      int columns,
      bool packed) {
    load_rows<kSsdChunk, kThreads>(
        block.tile(number),
        static_cast<const T*>(from) + at,
        stride,
        rows,
        columns,
        packed,
        thread);
  }
  /// Rows of the chunk's tokens.
  __device__ void load(int number, const SsdRows& from, long long at, int columns) {
    load(
        number,
        from.data,
        block.work().chunk.first * from.stride + at,
        from.stride,
        block.work().chunk.tokens,
        columns,
        from.packed);
  }
  /// A slice of B and of C to the tiles numbered `to` among theirs.
  __device__ void load_keys(int to, int slice) {
    const int n = (kOwner * kSsdOwnSlices + slice) * kSsdGradientColumns;
    const int columns = block.layout.state_dim - n;
    const long long at = static_cast<long long>(block.work().group) * block.layout.state_dim + n;
    load(Plan::kKeys + to, block.in.keys, at, columns);
    load(Plan::kQueries + to, block.in.queries, at, columns);
  }
  __device__ void load_states(int to, const void* from, int turn, int slice) {
    const SsdLayout& layout = block.layout;
    const int p = block.work().pass_of(turn) * kSsdGradientColumns;
    const int n = (kOwner * kSsdOwnSlices + slice) * kSsdGradientColumns;
    const long long at = block.work().chunk.chunk * layout.heads + block.work().head_of(turn);
    load(
        to,
        from,
        (at * layout.head_dim + p) * layout.state_dim + n,
        layout.state_dim,
        layout.head_dim - p,
        layout.state_dim - n,
        block.in.states_packed);
  }

  /// The number of the stage that a slice of a turn is in.
  __device__ int stage_of(int turn, int slice) const {
    return (turn * Plan::kLoads + slice) % Plan::kStages;
  }

  /// Starts loading a slice of states; with a turn's first slice its x and dy.
  __device__ void start_loads(int turn, int slice) {
    if (turn < block.work().turns) {
      const int stage = stage_of(turn, slice);
      if (slice < Plan::kOwn) {
        load_states(Plan::kStates + stage, block.in.states, turn, slice);
      }
      load_states(Plan::kStateGradients + stage, block.in.dstates, turn, slice);
      if constexpr (!Plan::kKeysStay) {
        load_keys(stage, slice);
      }
      if (slice == 0) {
        const int p = block.work().pass_of(turn) * kSsdGradientColumns;
        const int columns = block.layout.head_dim - p;
        const long long at =
            static_cast<long long>(block.work().head_of(turn)) * block.layout.head_dim + p;
        load(Plan::kInputs + turn % Plan::kBuffers, block.in.x, at, columns);
        load(Plan::kSlopes + turn % Plan::kBuffers, block.in.dy, at, columns);
      }
    }
    commit_copies();
  }

  __device__ void open_phase(int turn, int phase) {
    if (phase >= Plan::kLoads) {
      __syncthreads();
    } else if constexpr (Plan::kAhead == 0) {
      __syncthreads();
      start_loads(turn, phase);
      wait_for_copies<0>();
      __syncthreads();
    } else {
      wait_for_copies<Plan::kAhead - 1>();
      __syncthreads(); // all see the slice, and have left the one whose place the next load takes
      const int next = phase + Plan::kAhead;
      start_loads(turn + next / Plan::kLoads, next % Plan::kLoads);
    }
  }

  /// Brings B and C where they do not stay, before and after the walk over the heads.
  __device__ void fetch_keys(int slice) {
    __syncthreads();
    load_keys(0, slice);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
  }

  __device__ void begin(SsdWarpBlock& scores) {
    if constexpr (Plan::kKeysStay) {
      for (int slice = 0; slice < Plan::kLoads; ++slice) {
        load_keys(slice, slice);
      }
#pragma unroll
      for (int i = 0; i < Plan::kAhead; ++i) {
        start_loads(i / Plan::kLoads, i % Plan::kLoads);
      }
    }
    if (warp_index() == kTimeWarp) {
      write_turn(0);
    }
    if constexpr (Plan::kFirst && Plan::kKeysStay) {
      wait_for_copies<Plan::kAhead - 1>();
      __syncthreads();
    }
    if constexpr (Plan::kFirst) {
#pragma unroll 1
      for (int slice = 0; slice < kSlices; ++slice) {
        if constexpr (!Plan::kKeysStay) {
          fetch_keys(slice);
        }
        multiply<kSsdGradientColumns>(
            scores,
            left(block.keys(slice, 0), place.row, 0),
            right_transposed(block.queries(slice, 0), place.column, 0));
      }
    }
  }

  __device__ void write_turn(int turn) const {
    if (turn < block.work().turns) {
      const int head = block.work().head_of(turn);
      const SsdSegment& chunk = block.work().chunk;
      const auto raw = read_steps<kSsdChunk>(time, head, chunk.first, chunk.tokens);
      write_times(block.scalars().times[turn % 2], time, head, raw, chunk.tokens);
    }
  }

  /// From x_j . dy_i to the weights of dy_i in du_j and to the gradients of scores. Turns
  /// `products` into the terms of x_j . du_j.
  __device__ void weigh(
      const SsdTimes<kSsdChunk>& times,
      SsdWarpBlock& scores,
      SsdWarpBlock& dscores,
      SsdWarpBlock& products) {
    const Square weights = block.tile(Plan::kWeights);
#pragma unroll
    for (int c = 0; c < 4; c += 2) {
      // Rows eight apart are permuted alike.
      T* rows_of_weights = weights.at(place.own_row_of(0), place.own_column_of(c));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = place.own_row_of(i);
        const float dt = times.step[j];
        float weight[2] = {0, 0};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int at = place.own_column_of(c + e);
          const float decay = at >= j ? times.between(j, at) : 0.0f;
          float& product = element(products, i, c + e);
          product *= decay;
          element(dscores, i, c + e) = fmaf(dt, product, element(dscores, i, c + e));
          if constexpr (Plan::kFirst) {
            const float score = element(scores, i, c + e);
            weight[e] = score * decay;
            product *= score;
          }
        }
        if constexpr (Plan::kFirst) {
          store_pair(rows_of_weights + 8 * i * Square::kStride, weight[0], weight[1]);
        }
      }
    }
  }

  /// Of the terms of row j in columns i: adds dt_j times their sum over i >= k, within the warp's
  /// block, to crossing k > j. Leaves the rows' sums.
  __device__ void sum_suffixes(
      const SsdTimes<kSsdChunk>& times,
      SsdWarpSums& sums,
      SsdWarpBlock& terms,
      float (&crossing)[4]) {
    const int lane = warp_lane() % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = place.own_row_of(i);
      const float dt = times.step[j];
      float beyond = 0; // of the columns to the right of the current eight
#pragma unroll
      for (int c = 2; c >= 0; c -= 2) {
        const float pair = element(terms, i, c) + element(terms, i, c + 1);
        const float next = __shfl_down_sync(0xffffffffu, pair, 1);
        const float third = __shfl_down_sync(0xffffffffu, pair, 2);
        const float fourth = __shfl_down_sync(0xffffffffu, pair, 3);
        const float right_of =
            (lane < 3 ? next : 0.0f) + (lane < 2 ? third : 0.0f) + (lane < 1 ? fourth : 0.0f);
        const float all = __shfl_sync(0xffffffffu, right_of + pair, warp_lane() - lane);
        const float odd = element(terms, i, c + 1) + (right_of + beyond);
        const float even = element(terms, i, c) + odd;
        crossing[c] += place.own_column_of(c) > j ? dt * even : 0.0f;
        crossing[c + 1] += place.own_column_of(c + 1) > j ? dt * odd : 0.0f;
        beyond += all;
      }
      if (lane == 0) {
        sums.inside[place.column / 16][j] = beyond;
      }
    }
  }

  /// Adds what the warps to the right have in the rows, and leaves the sums over the rows.
  __device__ void
  leave_crossing(const SsdTimes<kSsdChunk>& times, SsdWarpSums& sums, float (&crossing)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = place.own_row_of(i);
      float beyond = 0;
      for (int other = place.column / 16 + 1; other < 4; ++other) {
        beyond += sums.inside[other][j];
      }
      beyond *= times.step[j];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        crossing[c] += place.own_column_of(c) > j ? beyond : 0.0f;
      }
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float sum = rows_sum(crossing[c]);
      if (warp_lane() < 4) {
        sums.crossing[place.row / 32][place.own_column_of(c)] = sum;
      }
    }
  }

  /// Turns du into dx and writes it; leaves the sums over the rows of dy x.
  __device__ void
  write_inputs(const SsdTimes<kSsdChunk>& times, SsdWarpSums& sums, SsdWarpBlock& du, int turn) {
    const SsdLayout& layout = block.layout;
    const Square slopes = block.tile(Plan::kSlopes + turn % Plan::kBuffers);
    const Square inputs = block.tile(Plan::kInputs + turn % Plan::kBuffers);
    const int head = block.work().head_of(turn);
    const int p = block.work().pass_of(turn) * kSsdGradientColumns;
#pragma unroll
    for (int c = 0; c < 4; c += 2) {
      float skip[2] = {0, 0};
      float products[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int channel = p + place.own_column_of(c + i);
        if (block.in.D.data != nullptr && channel < layout.head_dim) {
          skip[i] =
              block.in.D.data[head * block.in.D.head_stride + channel * block.in.D.channel_stride];
        }
      }
      // Rows eight apart are permuted alike.
      const T* rows_of_slopes = slopes.at(place.own_row_of(0), place.own_column_of(c));
      const T* rows_of_inputs = inputs.at(place.own_row_of(0), place.own_column_of(c));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float dt = times.step[place.own_row_of(i)];
        const float2 slope = load_pair(rows_of_slopes + 8 * i * Square::kStride);
        const float2 input = load_pair(rows_of_inputs + 8 * i * Square::kStride);
        products[0] = fmaf(slope.x, input.x, products[0]);
        products[1] = fmaf(slope.y, input.y, products[1]);
        element(du, i, c) = fmaf(skip[0], slope.x, dt * element(du, i, c));
        element(du, i, c + 1) = fmaf(skip[1], slope.y, dt * element(du, i, c + 1));
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float sum = rows_sum(products[i]);
        if (warp_lane() < 4) {
          sums.skip[place.row / 32][place.own_column_of(c + i)] = sum;
        }
      }
    }
    const int stride = renewed(block.out.dx_stride);
    store_rows(
        du,
        static_cast<T*>(block.out.dx) + (block.work().chunk.first + place.row) * stride +
            static_cast<long long>(head) * layout.head_dim + p + place.column,
        stride,
        block.work().chunk.tokens - place.row,
        layout.head_dim - p - place.column,
        layout.head_dim % Square::kGranule == 0);
  }

  __device__ void add_pass(SsdWarpBlock& scores, SsdWarpBlock& dscores, int turn) {
    constexpr int kDepth = kSsdGradientColumns;
    const SsdTimes<kSsdChunk>& times = block.scalars().times[turn % 2];
    SsdWarpSums& sums = block.scalars().sums[turn % 2];
    const Square slopes = block.tile(Plan::kSlopes + turn % Plan::kBuffers);
    const Square inputs = block.tile(Plan::kInputs + turn % Plan::kBuffers);
    SsdWarpBlock du;
    float crossing[4] = {0, 0, 0, 0};
#pragma unroll
    for (int phase = 0; phase < Plan::kPhases; ++phase) {
      open_phase(turn, phase);
      renew();
      if (phase == 0) {
        if (turn > 0) {
          write_sums(turn - 1);
        }
        if (warp_index() == kTimeWarp) {
          write_turn(turn + 1);
        }
      }
      if (Plan::kFirst && phase < kSlices) {
        const int stage = stage_of(turn, phase);
        multiply<kDepth>(
            du,
            left(block.keys(phase, stage), place.row, 0),
            right_transposed(block.tile(Plan::kStateGradients + stage), place.column, 0));
      }
      if (phase == kWeighPhase) {
        renew();
        SsdWarpBlock products;
        if (place.column + 16 > place.row) { // else i < j in all of the block
          multiply<kDepth>(
              products, left(inputs, place.row, 0), right_transposed(slopes, place.column, 0));
        }
        weigh(times, scores, dscores, products);
        if constexpr (Plan::kFirst) {
          sum_suffixes(times, sums, products, crossing);
        }
      }
      if (Plan::kFirst && phase + 1 == Plan::kPhases) {
        renew();
        const Square weights = block.tile(Plan::kWeights);
        du.scale_rows(times.to_end + place.row);
        if (place.row == 0) {
          multiply<32>(du, left(weights, 0, 0), right(slopes, 0, place.column));
        }
        multiply<32>(du, left(weights, place.row, 32), right(slopes, 32, place.column));
        renew();
        leave_crossing(times, sums, crossing);
        renew();
        write_inputs(times, sums, du, turn);
      }
    }
  }

  /// Adds up what the warps have left of a pass, and writes it.
  __device__ void write_sums(int turn) {
    const SsdWarpSums& sums = block.scalars().sums[turn % 2];
    const SsdGradientWork& work = block.work();
    const int kind = thread / kSsdChunk;
    const int token = thread % kSsdChunk;
    const long long head = work.chunk.chunk * block.layout.heads + work.head_of(turn);
    const long long at = head * work.passes + work.pass_of(turn);
    float* to = block.out.token_sums +
                ((at * block.out.owners + kOwner) * kTokenSums + kind) * kSsdChunk + token;
    if (kind < 2) {
      const auto& of_warps = kind == kCarriedSum ? sums.carried : sums.left;
      float sum =
          (of_warps[0][token] + of_warps[1][token]) + (of_warps[2][token] + of_warps[3][token]);
      if (kind == kCarriedSum && token == kSsdChunk - 1) {
#pragma unroll
        for (int warp = 0; warp < 8; ++warp) {
          sum += sums.through[warp];
        }
      }
      *to = sum;
    } else if (Plan::kFirst && kind == kInsideSum) {
      *to = (sums.inside[0][token] + sums.inside[1][token]) +
            (sums.inside[2][token] + sums.inside[3][token]);
    } else if (Plan::kFirst) {
      *to = sums.crossing[0][token] + sums.crossing[1][token];
      to[(kSkipSum - kCrossingSum) * kSsdChunk] = sums.skip[0][token] + sums.skip[1][token];
    }
  }
};

} // namespace baton
