// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_kernels_rows.h"

#include <string>
#include <utility>

namespace baton::ops {
namespace {

constexpr auto kDouble = c10::ScalarType::Double;
constexpr auto kFloat = c10::ScalarType::Float;
constexpr auto kBFloat16 = c10::ScalarType::BFloat16;

// Registers with which four blocks of 256 threads share a multiprocessor, and three; two teams of
// 512, and one.
constexpr int kForFourBlocks = 64;
constexpr int kForThreeBlocks = 80;
constexpr int kForTwoTeams = 64;
constexpr int kForOneTeam = 128;
constexpr int kForSums = 32; // two blocks of 1024 threads

/// "<first, second, ...>" of a kernel's template arguments.
std::string arguments_of(const std::vector<std::string>& arguments) {
  std::string text;
  for (const std::string& argument : arguments) {
    text += (text.empty() ? "<" : ", ") + argument;
  }
  return text + ">";
}

/// The kernel `name` of the source `stem`, and `name`_backward.
NormKernels
both(const std::string& stem, const std::string& name, const std::vector<std::string>& arguments) {
  const std::string source = "baton/ops/cuda/" + stem + ".cu";
  const std::string of = arguments_of(arguments);
  return {{source, "baton::" + name + of, {}}, {source, "baton::" + name + "_backward" + of, {}}};
}

/// `bytes` are those of a channel of all inputs of the forward.
void add(
    std::vector<KernelBudget>& kernels,
    const NormKernels& norm,
    const NormPacks& packs,
    std::size_t bytes) {
  // As kNormTeams and kTeamsTogether say in norm_teams.cuh.
  const std::int64_t values = packs.pack * packs.packs;
  const bool one_forward = values * static_cast<std::int64_t>(bytes) > 64;
  kernels.push_back({norm.forward, one_forward ? kForOneTeam : kForTwoTeams});
  const bool one_team = values > 8;
  kernels.push_back({norm.backward, one_team ? kForOneTeam : kForTwoTeams});
}

void add_norms(
    std::vector<KernelBudget>& kernels,
    c10::ScalarType activation,
    c10::ScalarType weight) {
  const std::size_t bytes = c10::elementSize(activation);
  for (const NormPacks& packs : norm_packs(activation)) {
    add(kernels, rms_norm_kernels(activation, weight, packs), packs, bytes);
    for (const bool gate_first : {true, false}) {
      add(kernels, gated_norm_kernels(activation, weight, packs, gate_first), packs, 2 * bytes);
    }
    add(kernels, add_rms_norm_kernels(activation, activation, weight, packs), packs, 2 * bytes);
    if (activation == kBFloat16) {
      const std::size_t both = bytes + c10::elementSize(kFloat);
      add(kernels, add_rms_norm_kernels(kFloat, activation, weight, packs), packs, both);
    }
  }
  kernels.push_back(
      {sum_partials_kernel(activation == kDouble ? kDouble : kFloat, weight), kForSums});
}

} // namespace

std::int64_t row_pack(c10::ScalarType activation) {
  return activation == kDouble ? 1 : widest_pack(activation);
}

std::vector<NormPacks> norm_packs(c10::ScalarType activation) {
  switch (activation) {
    case kDouble:
      return {{1, 2}, {1, 0}};
    case kFloat:
      return {{1, 4}, {4, 2}, {4, 4}, {1, 0}, {4, 0}};
    default:
      return {{1, 4}, {8, 2}, {1, 0}, {8, 0}};
  }
}

NormKernels
rms_norm_kernels(c10::ScalarType activation, c10::ScalarType weight, const NormPacks& packs) {
  return both(
      "rms_norm",
      "rms_norm",
      {cuda_type_name(activation),
       cuda_type_name(weight),
       std::to_string(packs.pack),
       std::to_string(packs.packs)});
}

NormKernels gated_norm_kernels(
    c10::ScalarType activation,
    c10::ScalarType weight,
    const NormPacks& packs,
    bool gate_first) {
  return both(
      "gated_norm",
      "gated_norm",
      {cuda_type_name(activation),
       cuda_type_name(weight),
       std::to_string(packs.pack),
       std::to_string(packs.packs),
       gate_first ? "true" : "false"});
}

NormKernels add_rms_norm_kernels(
    c10::ScalarType residual,
    c10::ScalarType activation,
    c10::ScalarType weight,
    const NormPacks& packs) {
  return both(
      "add_rms_norm",
      "add_rms_norm",
      {cuda_type_name(activation),
       cuda_type_name(residual),
       cuda_type_name(weight),
       std::to_string(packs.pack),
       std::to_string(packs.packs)});
}

jit::KernelSpec sum_partials_kernel(c10::ScalarType sums, c10::ScalarType out) {
  return {
      "baton/ops/cuda/sum_partials.cu",
      "baton::sum_partials" + arguments_of({cuda_type_name(sums), cuda_type_name(out)}),
      {}};
}

NormKernels gate_kernels(c10::ScalarType activation, std::int64_t pack) {
  return both("gated_norm", "gate", {cuda_type_name(activation), std::to_string(pack)});
}

ActivationKernels activation_kernels(c10::ScalarType activation, std::int64_t pack) {
  const std::vector<std::string> arguments{cuda_type_name(activation), std::to_string(pack)};
  NormKernels relu = both("activation", "squared_relu", arguments);
  NormKernels swiglu = both("activation", "swiglu", arguments);
  return {
      std::move(relu.forward),
      std::move(relu.backward),
      std::move(swiglu.forward),
      std::move(swiglu.backward)};
}

jit::KernelSpec rotary_kernel(c10::ScalarType activation, std::int64_t pack, bool interleaved) {
  return {
      "baton/ops/cuda/rotary.cu",
      "baton::rotary" +
          arguments_of(
              {cuda_type_name(activation), std::to_string(pack), interleaved ? "true" : "false"}),
      {}};
}

void add_row_kernels(std::vector<KernelBudget>& kernels) {
  for (const auto& [activation, weight] :
       {std::pair(kDouble, kDouble),
        std::pair(kFloat, kFloat),
        std::pair(kBFloat16, kBFloat16),
        std::pair(kBFloat16, kFloat)}) {
    add_norms(kernels, activation, weight);
  }
  for (const auto& [activation, pack] :
       {std::pair(kDouble, 1),
        std::pair(kFloat, 1),
        std::pair(kFloat, 4),
        std::pair(kBFloat16, 1),
        std::pair(kBFloat16, 8)}) {
    const NormKernels gate = gate_kernels(activation, pack);
    const ActivationKernels activations = activation_kernels(activation, pack);
    kernels.push_back({gate.forward, kForFourBlocks});
    kernels.push_back({gate.backward, kForThreeBlocks});
    kernels.push_back({activations.squared_relu, kForFourBlocks});
    kernels.push_back({activations.squared_relu_backward, kForFourBlocks});
    kernels.push_back({activations.swiglu, kForFourBlocks});
    kernels.push_back({activations.swiglu_backward, kForThreeBlocks});
    for (const bool interleaved : {false, true}) {
      kernels.push_back({rotary_kernel(activation, pack, interleaved), kForFourBlocks});
    }
  }
}

} // namespace baton::ops
