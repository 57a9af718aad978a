// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_kernels_ssd.h"

#include <string>

#include <c10/util/Exception.h>

#include "baton/ops/cuda/ssd_arguments.cuh"

namespace baton::ops {
namespace {

constexpr std::int64_t kMostStateDim = 256;
constexpr std::int64_t kSweepStages = 3;    // as in ssd_sweep.cu
constexpr std::int64_t kWarpRows = 16;      // of a state, that a warp takes
constexpr std::int64_t kForwardWarps = 4;   // that multiply, as in ssd.cu
constexpr std::int64_t kAttendantWarps = 2; // of forward and sweep: one keeps time, one copies
constexpr std::int64_t kLineBytes = 128;    // a step has as many tokens as a line has values
constexpr std::int64_t kGranuleBytes = 16;
constexpr unsigned kStepThreads = 64; // as in ssd_step.cu

// Registers of a thread where one block of 192 threads has a multiprocessor for itself, and where
// two share it; and where four of 256 do.
constexpr int kForOneBlock = 255;
constexpr int kForTwoBlocks = 168;
constexpr int kForFourBlocks = 64;
constexpr int kForTenStepBlocks = 96; // of kStepThreads

std::int64_t padded(std::int64_t size) {
  std::int64_t width = 32;
  while (width < size) {
    width *= 2;
  }
  return width;
}

std::string arguments(c10::ScalarType activation, SsdTile tile) {
  return "<" + cuda_type_name(activation) + ", " + std::to_string(tile.channels) + ", " +
         std::to_string(tile.state_dim) + ">";
}

std::int64_t tokens_of_step(c10::ScalarType activation) {
  return kLineBytes / static_cast<std::int64_t>(c10::elementSize(activation));
}

// Bytes of a Tile of tiles.cuh.
std::int64_t tile_bytes(c10::ScalarType activation, std::int64_t rows, std::int64_t columns) {
  const auto size = static_cast<std::int64_t>(c10::elementSize(activation));
  const std::int64_t padding = activation == c10::ScalarType::Float ? kGranuleBytes : 0;
  return rows * (columns * size + padding);
}

} // namespace

SsdTile ssd_tile(std::int64_t P, std::int64_t N) {
  TORCH_CHECK(N <= kMostStateDim, "the scan on a GPU takes a state dim of at most 256, got ", N);
  return {P <= 32 ? 32 : 64, padded(N)};
}

SsdKernel ssd_forward_kernel(c10::ScalarType activation, SsdTile tile) {
  const std::int64_t tokens = tokens_of_step(activation);
  return {
      {"baton/ops/cuda/ssd.cu", "baton::ssd_forward" + arguments(activation, tile), {}},
      static_cast<unsigned>(kForwardWarps + kAttendantWarps) * kWarpThreads,
      static_cast<unsigned>(
          3 * tile_bytes(activation, tokens, tile.channels) +
          4 * tile_bytes(activation, tokens, tile.state_dim) +
          2 * tile_bytes(activation, tokens, tokens))};
}

SsdKernel ssd_sweep_kernel(c10::ScalarType activation, SsdTile tile) {
  const std::int64_t tokens = tokens_of_step(activation);
  const std::int64_t stage = tile_bytes(activation, tokens, tile.channels) +
                             tile_bytes(activation, tokens, tile.state_dim);
  return {
      {"baton/ops/cuda/ssd_sweep.cu", "baton::ssd_sweep" + arguments(activation, tile), {}},
      static_cast<unsigned>(tile.channels / kWarpRows + kAttendantWarps) * kWarpThreads,
      static_cast<unsigned>(kSweepStages * stage)};
}

SsdKernel ssd_combine_kernel(bool reverse) {
  const std::string of = reverse ? "<true>" : "<false>";
  return {{"baton/ops/cuda/ssd_sweep.cu", "baton::ssd_combine" + of, {}}, kSsdCombineThreads, 0};
}

SsdKernel ssd_mark_starts_kernel() {
  return {{"baton/ops/cuda/ssd_sweep.cu", "baton::ssd_mark_starts", {}}, kSsdMarkThreads, 0};
}

SsdStepKernel ssd_step_kernel(c10::ScalarType activation, std::int64_t N, bool packed) {
  const SsdTile tile = ssd_tile(1, N);
  // As SsdStepShape of ssd_step.cu: 16 values of a thread.
  const std::int64_t channels = kStepThreads * 16 / tile.state_dim;
  return {
      {{"baton/ops/cuda/ssd_step.cu",
        "baton::ssd_step<" + cuda_type_name(activation) + ", " + std::to_string(tile.state_dim) +
            (packed ? ", true>" : ", false>"),
        {}},
       kStepThreads,
       0},
      channels};
}

void add_ssd_kernels(std::vector<KernelBudget>& kernels) {
  for (const auto activation : {c10::ScalarType::Float, c10::ScalarType::BFloat16}) {
    for (const std::int64_t state_dim : {32, 64, 128, 256}) {
      for (const std::int64_t channels : {32, 64}) {
        const SsdTile tile{channels, state_dim};
        const auto serves = [tile](const KernelModel& model) {
          const SsdTile wanted = ssd_tile(model.head_dim, model.state_dim);
          return wanted.channels == tile.channels && wanted.state_dim == tile.state_dim;
        };
        const int registers = state_dim < kMostStateDim ? kForTwoBlocks : kForOneBlock;
        kernels.push_back({ssd_forward_kernel(activation, tile).spec, registers, serves});
        kernels.push_back({ssd_sweep_kernel(activation, tile).spec, registers, serves});
      }
      for (const bool packed : {false, true}) {
        kernels.push_back(
            {ssd_step_kernel(activation, state_dim, packed).kernel.spec,
             kForTenStepBlocks,
             [state_dim](const KernelModel& model) {
               return ssd_tile(model.head_dim, model.state_dim).state_dim == state_dim;
             }});
      }
    }
  }
  kernels.push_back({ssd_combine_kernel(false).spec, kForFourBlocks});
  kernels.push_back({ssd_combine_kernel(true).spec, kForFourBlocks});
  kernels.push_back({ssd_mark_starts_kernel().spec, kForFourBlocks});
}

} // namespace baton::ops
