// SPDX-License-Identifier: Apache-2.0
// Root-mean-square norms of groups of channels, and their gradients, for operators that differ in
// what they read, norm and write. Statistics are fp32, or fp64 for fp64.
//
// An operator `Op` on packs of Op::kPack channels has
//   In, Out                           what it reads and writes of a pack
//   In load(row, channel)
//   store(row, channel, out)
//   values(in, v)                     what is normed
//   finish(out, in, normed)           from v r w, with r the inverse root mean square, w the weight
// and its gradients, instead of finish(),
//   fetch(row, channel, words, stride)     if kPack > 1: starts copies of an In's 16-byte words to
//                                          shared memory, each `stride` words after the last
//   incoming(in, e)                        the gradient of v r w
//   finish(out, in, dvalues, normed)       from the gradient of v, and v r w
// where v, e, normed and dvalues are arrays Sums[kPack].
#pragma once

#include "baton/ops/cuda/launch_overlap.cuh"
#include "baton/ops/cuda/mma.cuh"
#include "baton/ops/cuda/norm_teams.cuh"
#include "baton/ops/cuda/rows.cuh"
#include "baton/ops/cuda/shared_memory.cuh"
#include "baton/ops/cuda/widen.cuh"

namespace baton {

struct NormShape {
  long long rows;
  int groups; ///< of a row
  int size;   ///< channels of a group
  double eps;
};

/// The sums of kCount values over each team, for every thread of it; added in the same order each
/// time. All threads of the block call it, with `turn` 0 and 1 in turns.
template <int kCount, typename S>
__device__ void team_sums(S (&values)[kCount], int turn) {
  constexpr int kMostWarps = kMostTeamThreads / kWarpThreads;
  __shared__ S of_warps[2][kCount][kMostWarps];
#pragma unroll
  for (int step = kWarpThreads / 2; step > 0; step /= 2) {
    if (step < blockDim.x) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        values[i] += __shfl_xor_sync(0xffffffffu, values[i], step);
      }
    }
  }
  if (blockDim.x <= kWarpThreads) {
    return;
  }
  const int warps = blockDim.x / kWarpThreads; // of a team
  const int first = (threadIdx.z * blockDim.y + threadIdx.y) * warps;
  if (threadIdx.x % kWarpThreads == 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      of_warps[turn][i][first + threadIdx.x / kWarpThreads] = values[i];
    }
  }
  // What the call before last left was read before the last call's barrier.
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    values[i] = 0;
    for (int warp = 0; warp < warps; ++warp) {
      values[i] += of_warps[turn][i][first + warp];
    }
  }
}

/// The part of a group that one thread holds: packs threadIdx.x, threadIdx.x + blockDim.x, ...
template <typename Op, int kPacks>
struct TeamPart {
  int group;
  int first; ///< channel of the group
  int size;  ///< of the group, 0 past the last group

  __device__ explicit TeamPart(const NormShape& shape)
      : group(blockIdx.y * blockDim.y + threadIdx.y),
        first(group * shape.size),
        size(group < shape.groups ? shape.size : 0) {}

  __device__ int offset(int pack) const { return (threadIdx.x + pack * blockDim.x) * Op::kPack; }
  __device__ bool holds(int pack) const { return offset(pack) < size; }
  __device__ int channel(int pack) const { return first + offset(pack); }

  /// A row's part; nothing past the last row.
  __device__ void load(const Op& op, long long row, long long rows, typename Op::In (&in)[kPacks])
      const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (row < rows && holds(p)) {
        in[p] = op.load(row, channel(p));
      }
    }
  }
};

/// A pack's values in the type of sums.
template <typename Op>
using Values = typename Op::Sums[Op::kPack];

template <typename S, int kPack>
__device__ void add_squares(const S (&values)[kPack], S& sum) {
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    sum += values[j] * values[j];
  }
}

/// Adds of a pack v v, and v e w.
template <typename Op, typename W>
__device__ void add_products(
    const Op& op,
    const typename Op::In& in,
    const Pack<W, Op::kPack>& scale,
    typename Op::Sums (&sums)[2]) {
  Values<Op> values;
  Values<Op> incoming;
  Values<Op> factors;
  op.values(in, values);
  op.incoming(in, incoming);
  widen(scale, factors);
  add_squares(values, sums[0]);
#pragma unroll
  for (int j = 0; j < Op::kPack; ++j) {
    sums[1] += values[j] * (incoming[j] * factors[j]);
  }
}

template <typename Op, typename W>
__device__ void store_normed(
    const Op& op,
    long long row,
    int channel,
    const typename Op::In& in,
    const Values<Op>& values,
    const Pack<W, Op::kPack>& scale,
    typename Op::Sums inverse) {
  Values<Op> normed;
  widen(scale, normed);
#pragma unroll
  for (int j = 0; j < Op::kPack; ++j) {
    normed[j] *= values[j] * inverse;
  }
  typename Op::Out out;
  op.finish(out, in, normed);
  op.store(row, channel, out);
}

/// What a row's sums say of its gradients: dv = w e inverse - v along.
template <typename S>
struct NormSlopes {
  S inverse;
  S along;

  __device__ NormSlopes(const S (&sums)[2], const NormShape& shape)
      : inverse(rsqrt(sums[0] / shape.size + static_cast<S>(shape.eps))),
        along(sums[1] * inverse * inverse * inverse / shape.size) {}
};

/// Writes a pack's gradients and adds e v r to its weight's.
template <typename Op, typename W>
__device__ void store_gradients(
    const Op& op,
    long long row,
    int channel,
    const typename Op::In& in,
    const Pack<W, Op::kPack>& scale,
    const NormSlopes<typename Op::Sums>& slopes,
    typename Op::Sums (&dweight)[Op::kPack]) {
  Values<Op> values;
  Values<Op> incoming;
  Values<Op> normed;
  Values<Op> dvalues;
  op.values(in, values);
  op.incoming(in, incoming);
  widen(scale, normed);
#pragma unroll
  for (int j = 0; j < Op::kPack; ++j) {
    const auto factor = normed[j] * slopes.inverse;
    dweight[j] += incoming[j] * (values[j] * slopes.inverse);
    dvalues[j] = incoming[j] * factor - values[j] * slopes.along;
    normed[j] = values[j] * factor;
  }
  typename Op::Out out;
  op.finish(out, in, dvalues, normed);
  op.store(row, channel, out);
}

/// Norms of groups that fit into the registers of a team; each team takes one.
template <int kPacks, typename Op, typename W>
__device__ void norm_in_registers(const Op& op, const W* weight, const NormShape& shape) {
  using S = typename Op::Sums;
  const TeamPart<Op, kPacks> part(shape);
  const long long row = static_cast<long long>(blockIdx.x) * blockDim.z + threadIdx.z;
  typename Op::In in[kPacks];
  Pack<W, Op::kPack> scale[kPacks];
  part.load(op, row, shape.rows, in);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (part.holds(p)) {
      scale[p] = load_pack<W, Op::kPack>(weight + part.channel(p));
    }
  }
  // Kept, since what an operator computes of its inputs may cost more than it takes to read them.
  S values[kPacks][Op::kPack] = {};
  S squares[1] = {0};
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (row < shape.rows && part.holds(p)) {
      op.values(in[p], values[p]);
      add_squares(values[p], squares[0]);
    }
  }
  team_sums(squares, 0);
  const S inverse = rsqrt(squares[0] / shape.size + static_cast<S>(shape.eps));
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (row < shape.rows && part.holds(p)) {
      store_normed(op, row, part.channel(p), in[p], values[p], scale[p], inverse);
    }
  }
}

/// Norms of larger groups, one a block, read twice.
template <typename Op, typename W>
__device__ void norm_wide(const Op& op, const W* weight, const NormShape& shape) {
  using S = typename Op::Sums;
  const long long row = blockIdx.x;
  const int first = blockIdx.y * shape.size;
  S squares[1] = {0};
#pragma unroll 4
  for (int i = threadIdx.x * Op::kPack; i < shape.size; i += blockDim.x * Op::kPack) {
    S values[Op::kPack];
    op.values(op.load(row, first + i), values);
    add_squares(values, squares[0]);
  }
  team_sums(squares, 0);
  const S inverse = rsqrt(squares[0] / shape.size + static_cast<S>(shape.eps));
#pragma unroll 2
  for (int i = threadIdx.x * Op::kPack; i < shape.size; i += blockDim.x * Op::kPack) {
    const typename Op::In in = op.load(row, first + i);
    S values[Op::kPack];
    op.values(in, values);
    const auto scale = load_pack<W, Op::kPack>(weight + first + i);
    store_normed(op, row, first + i, in, values, scale, inverse);
  }
}

/// 16 bytes, as copies to shared memory take them.
struct alignas(16) Word {
  unsigned values[4];
};

/// A thread's parts of rows on their way through shared memory: the next row arrives while one is
/// worked on. Registers could not hold both, and a compiler would keep there all that it once
/// computed of a row.
template <typename Op, int kPacks>
struct RowsInShared {
  static constexpr int kWords = sizeof(typename Op::In) / sizeof(Word);
  static constexpr int kStages = 2;

  const Op& op;
  const TeamPart<Op, kPacks>& part;
  long long rows;
  int threads;
  Word* mine; ///< this thread's first word, of as many for each stage, pack and word of an In
  int stage = 0;

  __device__ RowsInShared(const Op& op, const TeamPart<Op, kPacks>& part, long long rows)
      : op(op),
        part(part),
        rows(rows),
        threads(blockDim.x * blockDim.y * blockDim.z),
        mine(
            reinterpret_cast<Word*>(dynamic_shared()) +
            (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x) {}

  __device__ Word* words(int of_stage, int pack) const {
    return mine + (of_stage * kPacks + pack) * kWords * threads;
  }

  __device__ void fetch(long long row, int to_stage) const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (row < rows && part.holds(p)) {
        op.fetch(row, part.channel(p), words(to_stage, p), threads);
      }
    }
    commit_copies();
  }

  __device__ void begin(long long row) const {
    fetch(row, stage);
  }

  /// Makes a row ready that was fetched before, and fetches the next one.
  __device__ void ready(long long /*row*/, long long next) {
    fetch(next, stage ^ 1);
    wait_for_copies<1>();
  }

  __device__ typename Op::In at(int pack) const {
    typename Op::In in;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      reinterpret_cast<Word*>(&in)[w] = words(stage, pack)[w * threads];
    }
    return in;
  }

  __device__ void done() {
    stage ^= 1;
  }
};

/// The same without shared memory, for values that cannot be copied so.
template <typename Op, int kPacks>
struct RowsInRegisters {
  const Op& op;
  const TeamPart<Op, kPacks>& part;
  long long rows;
  typename Op::In in[kPacks] = {};

  __device__ RowsInRegisters(const Op& op, const TeamPart<Op, kPacks>& part, long long rows)
      : op(op), part(part), rows(rows) {}

  __device__ void begin(long long /*row*/) const {}
  __device__ void ready(long long row, long long /*next*/) { part.load(op, row, rows, in); }
  __device__ const typename Op::In& at(int pack) const { return in[pack]; }
  __device__ void done() const {}
};

template <bool kShared, typename Op, int kPacks>
struct RowsOfTeam {
  using Type = RowsInRegisters<Op, kPacks>;
};
template <typename Op, int kPacks>
struct RowsOfTeam<true, Op, kPacks> {
  using Type = RowsInShared<Op, kPacks>;
};

/// Adds up what the block's teams found for the same channels, in the order of their rows, and
/// leaves it in the block's row of partials. Takes sizeof(S) * kPacks * kPack bytes of shared
/// memory a thread if the block has several rows.
template <int kPacks, typename Op>
__device__ void store_partials(
    const TeamPart<Op, kPacks>& part,
    typename Op::Sums (&dweight)[kPacks][Op::kPack],
    typename Op::Sums* partials_D) {
  using S = typename Op::Sums;
  constexpr int kValues = kPacks * Op::kPack;
  if (blockDim.z > 1) {
    S* shared = reinterpret_cast<S*>(dynamic_shared());
    const int threads_of_row = blockDim.x * blockDim.y;
    const int threads = threads_of_row * blockDim.z;
    const int of_row = threadIdx.y * blockDim.x + threadIdx.x;
    __syncthreads(); // rows are no longer in the shared memory
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      shared[v * threads + threadIdx.z * threads_of_row + of_row] =
          dweight[v / Op::kPack][v % Op::kPack];
    }
    __syncthreads();
    if (threadIdx.z > 0) {
      return;
    }
#pragma unroll 1
    for (int z = 1; z < blockDim.z; ++z) {
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        dweight[v / Op::kPack][v % Op::kPack] += shared[v * threads + z * threads_of_row + of_row];
      }
    }
  }
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (part.holds(p)) {
      const Pack<S, Op::kPack>& sums = *reinterpret_cast<const Pack<S, Op::kPack>*>(&dweight[p]);
      store_pack(sums, partials_D + part.channel(p));
    }
  }
}

/// Gradients of norms of groups of which a team holds one, and so its part of the weight's
/// gradient, while it goes through rows gridDim.x * blockDim.z apart.
template <int kPacks, typename Op, typename W>
__device__ void norm_gradients_of_teams(
    const Op& op,
    const W* weight,
    typename Op::Sums* partials,
    const NormShape& shape) {
  using S = typename Op::Sums;
  const TeamPart<Op, kPacks> part(shape);
  typename RowsOfTeam<(Op::kPack > 1), Op, kPacks>::Type rows(op, part, shape.rows);
  S dweight[kPacks][Op::kPack] = {};
  const long long step = static_cast<long long>(gridDim.x) * blockDim.z;
  long long row = static_cast<long long>(blockIdx.x) * blockDim.z + threadIdx.z;
  rows.begin(row);
  int turn = 0;
  // All of a block go round equally often, for the barriers.
  for (long long done = row - threadIdx.z; done < shape.rows; done += step) {
    rows.ready(row, row + step);
    S sums[2] = {0, 0};
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (row < shape.rows && part.holds(p)) {
        const auto scale = load_pack<W, Op::kPack>(weight + part.channel(p));
        add_products(op, rows.at(p), scale, sums);
      }
    }
    team_sums(sums, turn);
    const NormSlopes<S> slopes(sums, shape);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (row < shape.rows && part.holds(p)) {
        const int channel = part.channel(p);
        const auto scale = load_pack<W, Op::kPack>(weight + channel);
        store_gradients(op, row, channel, rows.at(p), scale, slopes, dweight[p]);
      }
    }
    rows.done();
    row += step;
    turn ^= 1;
  }
  if (threadIdx.x + threadIdx.y + threadIdx.z == 0) {
    let_next_begin(); // what adds up the partials
  }
  const long long channels = static_cast<long long>(shape.groups) * shape.size;
  store_partials<kPacks>(part, dweight, partials + blockIdx.x * channels);
}

/// Gradients of norms of larger groups, of one group a block, which reads each row twice and keeps
/// its part of the weight's gradient in shared memory: channel j of pack i at j * packs + i, so
/// that neighbouring threads meet different banks.
template <typename Op, typename W>
__device__ void norm_gradients_wide(
    const Op& op,
    const W* weight,
    typename Op::Sums* partials,
    const NormShape& shape) {
  using S = typename Op::Sums;
  S* dweight = reinterpret_cast<S*>(dynamic_shared());
  const int packs = shape.size / Op::kPack;
  const int first = blockIdx.y * shape.size;
  for (int i = threadIdx.x; i < packs; i += blockDim.x) {
    for (int j = 0; j < Op::kPack; ++j) {
      dweight[j * packs + i] = 0;
    }
  }
  int turn = 0;
  for (long long row = blockIdx.x; row < shape.rows; row += gridDim.x) {
    S sums[2] = {0, 0};
#pragma unroll 2
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
      const int channel = first + i * Op::kPack;
      add_products(op, op.load(row, channel), load_pack<W, Op::kPack>(weight + channel), sums);
    }
    team_sums(sums, turn);
    const NormSlopes<S> slopes(sums, shape);
    for (int i = threadIdx.x; i < packs; i += blockDim.x) {
      const int channel = first + i * Op::kPack;
      S dscale[Op::kPack] = {};
      store_gradients(
          op,
          row,
          channel,
          op.load(row, channel),
          load_pack<W, Op::kPack>(weight + channel),
          slopes,
          dscale);
#pragma unroll
      for (int j = 0; j < Op::kPack; ++j) {
        dweight[j * packs + i] += dscale[j];
      }
    }
    turn ^= 1;
  }
  S* partials_D = partials + static_cast<long long>(blockIdx.x) * shape.groups * shape.size;
  for (int i = threadIdx.x; i < packs; i += blockDim.x) {
    for (int j = 0; j < Op::kPack; ++j) {
      partials_D[first + i * Op::kPack + j] = dweight[j * packs + i];
    }
  }
}

/// kPacks is 0 for groups that the registers of a team do not hold.
template <int kPacks, typename Op, typename W>
__device__ void run_norm(const Op& op, const W* weight, const NormShape& shape) {
  if constexpr (kPacks == 0) {
    norm_wide(op, weight, shape);
  } else {
    norm_in_registers<kPacks>(op, weight, shape);
  }
}

template <int kPacks, typename Op, typename W>
__device__ void run_norm_gradients(
    const Op& op,
    const W* weight,
    typename Op::Sums* partials,
    const NormShape& shape) {
  if constexpr (kPacks == 0) {
    norm_gradients_wide(op, weight, partials, shape);
  } else {
    norm_gradients_of_teams<kPacks>(op, weight, partials, shape);
  }
}

} // namespace baton
