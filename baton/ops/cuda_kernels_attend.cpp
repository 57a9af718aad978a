// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_kernels_attend.h"

#include <string>

#include "baton/ops/cuda/paged_arguments.cuh"
#include "baton/ops/cuda_kernels_embedding.h"

namespace baton::ops {
namespace {

constexpr auto kDouble = c10::ScalarType::Double;
constexpr auto kFloat = c10::ScalarType::Float;
constexpr auto kBFloat16 = c10::ScalarType::BFloat16;

// Registers with which four, three and two blocks of 128 threads share a multiprocessor, and six of
// 256 threads.
constexpr int kForFourBlocks = 128;
constexpr int kForThreeBlocks = 168;
constexpr int kForTwoBlocks = 255;
constexpr int kForManyBlocks = 40;
constexpr int kForFewerBlocks = 64;

template <int kHeadDim, int kRowWarps>
PagedAttentionKernel tiles() {
  return {
      {"baton/ops/cuda/paged_attention.cu",
       "baton::paged_attention_tiles<" + std::to_string(kHeadDim) + ", " +
           std::to_string(kRowWarps) + ">",
       {}},
      kRowWarps * kPagedMmaRows,
      kPagedTileKeys<kHeadDim, kRowWarps>,
      kPagedTileBytes<kHeadDim, kRowWarps>};
}

} // namespace

PagedAttentionKernel paged_attention_tiles(std::int64_t channels, bool many_queries) {
  if (channels <= 64) {
    return many_queries ? tiles<64, 4>() : tiles<64, 1>();
  }
  if (channels <= 128) {
    return many_queries ? tiles<128, 4>() : tiles<128, 1>();
  }
  return many_queries ? tiles<256, 4>() : tiles<256, 1>();
}

PagedAttentionKernel
paged_attention_lanes(c10::ScalarType type, std::int64_t channels, bool packs) {
  const std::int64_t pack = packs ? 4 : 1;
  const std::int64_t values = packs && channels <= 128 ? 4 : 8; // of a lane
  return {
      {"baton/ops/cuda/paged_attention.cu",
       "baton::paged_attention_lanes<" + cuda_type_name(type) + ", " + std::to_string(pack) + ", " +
           std::to_string(values / pack) + ">",
       {}},
      kPagedLaneRows,
      kPagedThreads,
      kPagedThreads * kPagedLaneRows * values * std::int64_t{sizeof(float)}};
}

jit::KernelSpec merge_splits_kernel(c10::ScalarType type) {
  return {
      "baton/ops/cuda/paged_attention.cu", "baton::merge_splits<" + cuda_type_name(type) + ">", {}};
}

jit::KernelSpec paged_write_kernel(c10::ScalarType from, c10::ScalarType to, std::int64_t pack) {
  return {
      "baton/ops/cuda/paged_write.cu",
      "baton::paged_write<" + cuda_type_name(from) + ", " + cuda_type_name(to) + ", " +
          std::to_string(pack) + ">",
      {}};
}

jit::KernelSpec token_losses_kernel(c10::ScalarType logits, c10::ScalarType gradient) {
  return {
      "baton/ops/cuda/cross_entropy.cu",
      "baton::token_losses<" + cuda_type_name(logits) + ", " + cuda_type_name(gradient) + ">",
      {}};
}

jit::KernelSpec sum_losses_kernel(c10::ScalarType type) {
  return {"baton/ops/cuda/cross_entropy.cu", "baton::sum_losses<" + cuda_type_name(type) + ">", {}};
}

void add_attend_kernels(std::vector<KernelBudget>& kernels) {
  add_embedding_kernels(kernels);
  kernels.push_back({paged_attention_tiles(64, false).spec, kForFourBlocks});
  kernels.push_back({paged_attention_tiles(64, true).spec, kForFourBlocks});
  kernels.push_back({paged_attention_tiles(128, false).spec, kForFourBlocks});
  for (const bool many_queries : {false, true}) {
    kernels.push_back({paged_attention_tiles(256, many_queries).spec, kForTwoBlocks});
  }
  kernels.push_back({paged_attention_tiles(128, true).spec, kForTwoBlocks});
  kernels.push_back({paged_attention_lanes(kFloat, 128, true).spec, kForThreeBlocks});
  kernels.push_back({paged_attention_lanes(kFloat, 256, true).spec, kForTwoBlocks});
  for (const auto type : {kFloat, kBFloat16}) {
    kernels.push_back({paged_attention_lanes(type, 256, false).spec, kForTwoBlocks});
    kernels.push_back({merge_splits_kernel(type), kForManyBlocks});
    for (const auto to : {kFloat, kBFloat16}) {
      for (const std::int64_t pack : {std::int64_t{1}, std::int64_t{4}}) {
        kernels.push_back({paged_write_kernel(type, to, pack), kForManyBlocks});
      }
    }
  }
  kernels.push_back({token_losses_kernel(kFloat, kFloat), kForManyBlocks});
  kernels.push_back({token_losses_kernel(kFloat, kBFloat16), kForManyBlocks});
  kernels.push_back({token_losses_kernel(kDouble, kDouble), kForFewerBlocks});
  for (const auto type : {kDouble, kFloat}) {
    kernels.push_back({sum_losses_kernel(type), kForManyBlocks});
  }
}

} // namespace baton::ops
