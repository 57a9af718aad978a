// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda/norm_launch.h"

#include <algorithm>
#include <array>
#include <limits>

#include <ATen/ATen.h>

#include "baton/ops/cuda/norm_teams.cuh"
#include "baton/ops/cuda/packs.h"
#include "baton/ops/tuning.h"

namespace baton::ops::cuda {
namespace {

constexpr std::int64_t kMostSharedBytes = 160 << 10; // of a block, what sm_80 has
constexpr std::int64_t kMostBlockRows = 64;          // threadIdx.z goes no further
constexpr std::int64_t kStages = 2;                  // of rows on their way, as in norm_rows.cuh

constexpr std::int64_t divide_up(std::int64_t value, std::int64_t by) {
  return (value + by - 1) / by;
}

unsigned grid_size(std::int64_t blocks) {
  TORCH_CHECK(
      blocks <= std::numeric_limits<std::int32_t>::max(),
      "a kernel takes 2^31 - 1 blocks of rows, got ",
      blocks);
  return static_cast<unsigned>(blocks);
}

/// Threads that hold a group.
std::int64_t team_threads(const NormRows& rows) {
  if (rows.packs.packs == 0) {
    return kMostTeamThreads;
  }
  const std::int64_t wanted = divide_up(rows.size, rows.packs.pack * rows.packs.packs);
  if (wanted > kWarpThreads) {
    return divide_up(wanted, kWarpThreads) * kWarpThreads;
  }
  std::int64_t threads = 1;
  while (threads < wanted) {
    threads *= 2;
  }
  return threads;
}

/// Threads of a team, groups and rows of a block, which small teams share.
std::array<unsigned, 3> block_of(const NormRows& rows, std::int64_t block_threads) {
  const std::int64_t threads = team_threads(rows);
  const std::int64_t teams = std::max<std::int64_t>(1, block_threads / threads);
  const std::int64_t groups = std::min(rows.groups, teams);
  const std::int64_t block_rows = std::min(teams / groups, kMostBlockRows);
  return {
      static_cast<unsigned>(threads),
      static_cast<unsigned>(groups),
      static_cast<unsigned>(block_rows)};
}

} // namespace

NormRows norm_rows(const at::Tensor& rows_TD, std::int64_t size, at::TensorList inputs) {
  const std::int64_t widest = row_pack(rows_TD.scalar_type());
  const bool fit =
      size % widest == 0 && std::all_of(inputs.begin(), inputs.end(), [&](const at::Tensor& input) {
        return packs_fit(input, widest);
      });
  const std::int64_t pack = fit ? widest : 1;
  const std::int64_t bytes = rows_TD.numel() * rows_TD.element_size();
  NormRows rows{rows_TD.size(0), rows_TD.size(1) / size, size, bytes, {pack, 0}};
  for (const NormPacks& packs : norm_packs(rows_TD.scalar_type())) {
    if (packs.pack == pack && size <= kMostTeamThreads * pack * packs.packs) {
      rows.packs = packs;
      break;
    }
  }
  return rows;
}

jit::LaunchShape norm_launch(const Launcher& launcher, const NormRows& rows) {
  const NormTuning& tuning = tuning_of(launcher.arch(), rows.bytes).norm;
  const std::array<unsigned, 3> block = block_of(rows, tuning.block_threads);
  return {
      .grid =
          {grid_size(divide_up(rows.rows, block[2])),
           grid_size(divide_up(rows.groups, block[1])),
           1},
      .block = block};
}

NormGradientLaunch norm_gradient_launch(
    const Launcher& launcher,
    const NormRows& rows,
    std::int64_t bytes,
    const at::TensorOptions& options) {
  const NormTuning& tuning = tuning_of(launcher.arch(), rows.bytes).norm;
  const at::ScalarType sums =
      c10::typeMetaToScalarType(options.dtype()) == at::kDouble ? at::kDouble : at::kFloat;
  const auto sum_bytes = static_cast<std::int64_t>(c10::elementSize(sums));
  const std::array<unsigned, 3> block = block_of(rows, tuning.gradient_block_threads);
  const std::int64_t threads = std::int64_t{block[0]} * block[1] * block[2];
  const std::int64_t group_blocks = divide_up(rows.groups, block[1]);
  const std::int64_t most =
      std::max<std::int64_t>(1, tuning.gradient_threads / threads / group_blocks);
  const std::int64_t blocks = std::min(divide_up(rows.rows, block[2]), most);
  const std::int64_t values = threads * rows.packs.pack * rows.packs.packs;
  std::int64_t shared = 0;
  if (rows.packs.packs == 0) {
    shared = rows.size * sum_bytes;
    TORCH_CHECK(
        shared <= kMostSharedBytes,
        "the gradient of a norm on a GPU takes at most ",
        kMostSharedBytes / sum_bytes,
        " channels with one mean square, got ",
        rows.size);
  } else {
    const std::int64_t in_flight = rows.packs.pack > 1 ? kStages * values * bytes : 0;
    shared = std::max(in_flight, block[2] > 1 ? values * sum_bytes : 0);
  }
  return {
      .shape =
          {.grid = {grid_size(blocks), grid_size(group_blocks), 1},
           .block = block,
           .shared_bytes = static_cast<unsigned>(shared)},
      .partials_BD = at::empty({blocks, rows.groups * rows.size}, options.dtype(sums))};
}

void sum_partials(
    const Launcher& launcher,
    const at::Tensor& partials_BD,
    const at::Tensor& out_D) {
  const std::int64_t channels = partials_BD.size(1);
  launcher.launch(
      sum_partials_kernel(partials_BD.scalar_type(), out_D.scalar_type()),
      {.grid = {grid_size(divide_up(channels, kWarpThreads)), 1, 1},
       .block = {kSumWarps * kWarpThreads, 1, 1},
       .overlaps = true}, // with the launch that leaves the partials
      partials_BD.const_data_ptr(),
      out_D.mutable_data_ptr(),
      static_cast<int>(partials_BD.size(0)),
      static_cast<int>(channels));
}

} // namespace baton::ops::cuda
