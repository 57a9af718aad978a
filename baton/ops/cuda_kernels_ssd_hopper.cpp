// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_kernels_ssd_hopper.h"

#include <string>

#include "baton/ops/cuda/ssd_hopper_arguments.cuh"

namespace baton::ops {
namespace {

// Registers of a thread at the start where two blocks of 256 threads share a multiprocessor, where
// three do, and where one of 384 has it for itself.
constexpr int kForTwoBlocks = 128;
constexpr int kForThreeBlocks = 80;
constexpr int kForOneBlock = 168;

SsdKernel
kernel_of(const std::string& source, const std::string& entry, unsigned threads, int shared_bytes) {
  return {
      {"baton/ops/cuda/" + source, "baton::" + entry, {}},
      threads,
      static_cast<unsigned>(shared_bytes)};
}

std::string with_size(const std::string& name, std::int64_t size) {
  return name + "<" + std::to_string(size) + ">";
}

} // namespace

SsdKernel ssd_hopper_kernel(std::int64_t N, bool gated, bool convolves) {
  const int panels = N == 64 ? kHopperForwardPanels<64> : kHopperForwardPanels<128>;
  return kernel_of(
      "ssd_hopper.cu",
      "ssd_hopper<" + std::to_string(N) + (gated ? ", true" : ", false") +
          (convolves ? ", true>" : ", false>"),
      kHopperThreads,
      panels * kPanelBytes + kHopperRest);
}

SsdKernel ssd_hopper_sweep_kernel(std::int64_t columns) {
  const int panels = columns == 64 ? kHopperSweepPanels<64> : kHopperSweepPanels<128>;
  return kernel_of(
      "ssd_hopper_sweep.cu",
      with_size("ssd_hopper_sweep", columns),
      kHopperThreads,
      panels * kPanelBytes + kHopperRest);
}

SsdKernel ssd_hopper_gradients_kernel(std::int64_t N) {
  const int panels = N == 64 ? kHopperGradientPanels<64> : kHopperGradientPanels<128>;
  return kernel_of(
      "ssd_hopper_backward.cu",
      with_size("ssd_hopper_gradients", N),
      kHopperGradientThreads,
      panels * kPanelBytes + kHopperGradientRest);
}

void add_ssd_hopper_kernels(std::vector<KernelBudget>& kernels) {
  for (const std::int64_t state_dim : {64, 128}) {
    const auto serves = [state_dim](const KernelModel& model) {
      return model.dtype == c10::ScalarType::BFloat16 && model.head_dim == kHeadColumns &&
             model.state_dim == state_dim;
    };
    const auto add = [&](const SsdKernel& kernel, int registers) {
      kernels.push_back({kernel.spec, registers, serves, kHopperArch});
    };
    for (const bool gated : {false, true}) {
      for (const bool convolves : {false, true}) {
        add(ssd_hopper_kernel(state_dim, gated, convolves), kForTwoBlocks);
      }
    }
    add(ssd_hopper_gradients_kernel(state_dim), kForOneBlock);
  }
  const auto sweeps = [](std::int64_t columns) {
    return [columns](const KernelModel& model) {
      return model.dtype == c10::ScalarType::BFloat16 && model.head_dim == kHeadColumns &&
             (model.state_dim == columns || model.state_dim == 2 * columns) &&
             model.state_dim <= 128;
    };
  };
  kernels.push_back({ssd_hopper_sweep_kernel(64).spec, kForThreeBlocks, sweeps(64), kHopperArch});
  kernels.push_back({ssd_hopper_sweep_kernel(128).spec, kForTwoBlocks, sweeps(128), kHopperArch});
}

} // namespace baton::ops
