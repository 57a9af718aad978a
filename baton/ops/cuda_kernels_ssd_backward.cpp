// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_kernels_ssd_backward.h"

#include <string>

#include "baton/ops/cuda/ssd_gradient_arguments.cuh"

namespace baton::ops {
namespace {

// Registers of a thread where one block of 512 threads has a multiprocessor for itself, where two
// blocks of 512 or one of 1024 do, and where eight of 256 do.
constexpr int kForOneBlock = 128;
constexpr int kForTwoBlocks = 64;
constexpr int kForEightBlocks = 32;

constexpr const char* kSums = "baton/ops/cuda/ssd_gradient_sums.cu";

template <int kValueBytes>
unsigned shared_bytes(std::int64_t slices) {
  return static_cast<unsigned>(
      slices == 1   ? kSsdGradientBytes<kValueBytes, 1>
      : slices == 2 ? kSsdGradientBytes<kValueBytes, 2>
                    : kSsdGradientBytes<kValueBytes, 4>);
}

} // namespace

SsdGradientKernel ssd_gradient_kernel(c10::ScalarType activation, std::int64_t N) {
  const std::int64_t width = ssd_tile(1, N).state_dim;
  const std::int64_t slices = (width + kSsdGradientColumns - 1) / kSsdGradientColumns;
  return {
      {{"baton/ops/cuda/ssd_backward.cu",
        "baton::ssd_chunk_gradients<" + cuda_type_name(activation) + ", " + std::to_string(slices) +
            ">",
        {}},
       kSsdGradientThreads,
       activation == c10::ScalarType::Float ? shared_bytes<4>(slices) : shared_bytes<2>(slices)},
      (slices + kSsdOwnSlices - 1) / kSsdOwnSlices};
}

SsdKernel ssd_token_gradients_kernel() {
  return {{kSums, "baton::ssd_token_gradients", {}}, kSsdTokenHeads * kWarpThreads, 0};
}

SsdKernel ssd_sum_chunks_kernel() {
  return {{kSums, "baton::ssd_sum_chunks", {}}, kSsdSumWarps * kWarpThreads, 0};
}

SsdKernel ssd_add_parts_kernel(c10::ScalarType activation) {
  return {
      {kSums, "baton::ssd_add_parts<" + cuda_type_name(activation) + ">", {}}, kSsdAddThreads, 0};
}

SsdKernel ssd_add_to_slots_kernel() {
  return {{kSums, "baton::ssd_add_to_slots", {}}, kSsdAddThreads, 0};
}

// What the kernels of the gradients spill, the most for fp32 and a state dim of 256.
constexpr int kGradientSpills = 256;

void add_ssd_backward_kernels(std::vector<KernelBudget>& kernels) {
  for (const auto activation : {c10::ScalarType::Float, c10::ScalarType::BFloat16}) {
    for (const std::int64_t N : {64, 128, 256}) {
      kernels.push_back(
          {ssd_gradient_kernel(activation, N).kernel.spec, kForOneBlock, {}, "", kGradientSpills});
    }
    kernels.push_back({ssd_add_parts_kernel(activation).spec, kForEightBlocks});
  }
  kernels.push_back({ssd_token_gradients_kernel().spec, kForTwoBlocks});
  kernels.push_back({ssd_sum_chunks_kernel().spec, kForTwoBlocks});
  kernels.push_back({ssd_add_to_slots_kernel().spec, kForEightBlocks});
}

} // namespace baton::ops
