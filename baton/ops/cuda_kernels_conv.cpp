// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_kernels_conv.h"

#include <set>
#include <string>

#include "baton/ops/causal_conv1d.h"

namespace baton::ops {
namespace {

constexpr auto kDouble = c10::ScalarType::Double;
constexpr auto kFloat = c10::ScalarType::Float;
constexpr auto kBFloat16 = c10::ScalarType::BFloat16;

constexpr std::int64_t kNarrowWidth = 4; // of the convolution, up to which more blocks fit

jit::KernelSpec kernel(const char* source, const std::string& entry) {
  return {std::string("baton/ops/cuda/") + source, "baton::" + entry, {}};
}

std::string shape(c10::ScalarType activation, std::int64_t pack, std::int64_t width) {
  return cuda_type_name(activation) + ", " + std::to_string(pack) + ", " + std::to_string(width);
}

// Registers with which two, four and five blocks of 128 threads share a multiprocessor, as
// kConvBlocks and kConvGradientBlocks of the sources want them to.
int forward_budget(c10::ScalarType activation, std::int64_t width) {
  if (width <= kNarrowWidth) {
    return 102;
  }
  return activation == kBFloat16 ? 128 : 168;
}

int backward_budget(std::int64_t width) {
  return width <= kNarrowWidth ? 128 : 255;
}

} // namespace

std::int64_t widest_conv_pack(c10::ScalarType activation) {
  return activation == kDouble ? 1 : 4;
}

jit::KernelSpec
causal_conv1d_kernel(c10::ScalarType activation, std::int64_t pack, std::int64_t width, bool silu) {
  return kernel(
      "causal_conv1d.cu",
      "causal_conv1d<" + shape(activation, pack, width) + (silu ? ", true>" : ", false>"));
}

jit::KernelSpec causal_conv1d_backward_kernel(
    c10::ScalarType activation,
    std::int64_t pack,
    std::int64_t width,
    bool silu) {
  return kernel(
      "causal_conv1d_backward.cu",
      "causal_conv1d_backward<" + shape(activation, pack, width) + (silu ? ", true>" : ", false>"));
}

jit::KernelSpec
causal_conv1d_step_kernel(c10::ScalarType activation, std::int64_t pack, std::int64_t width) {
  return kernel(
      "causal_conv1d_step.cu", "causal_conv1d_step<" + shape(activation, pack, width) + ">");
}

jit::KernelSpec causal_conv1d_parameters_kernel(c10::ScalarType activation) {
  return kernel(
      "causal_conv1d_backward.cu", "causal_conv1d_parameters<" + cuda_type_name(activation) + ">");
}

jit::KernelSpec causal_conv1d_state_gradients_kernel(c10::ScalarType activation) {
  return kernel(
      "causal_conv1d_backward.cu",
      "causal_conv1d_state_gradients<" + cuda_type_name(activation) + ">");
}

jit::KernelSpec write_slots_kernel(c10::ScalarType from, c10::ScalarType to, std::int64_t pack) {
  return kernel(
      "write_slots.cu",
      "write_slots<" + cuda_type_name(from) + ", " + cuda_type_name(to) + ", " +
          std::to_string(pack) + ">");
}

void add_conv_kernels(std::vector<KernelBudget>& kernels) {
  constexpr int kForManyBlocks = 40;
  constexpr int kForFewerBlocks = 64;
  constexpr int kForTwelveStepBlocks = 80; // of kConvStepThreads
  constexpr int kForEightStepBlocks = 128;
  for (const auto type : {kDouble, kFloat, kBFloat16}) {
    for (const std::int64_t pack : std::set<std::int64_t>{1, widest_conv_pack(type)}) {
      for (std::int64_t width = 1; width <= kMaxConvWidth; ++width) {
        const auto serves = [width](const KernelModel& model) { return model.conv_width == width; };
        for (const bool silu : {false, true}) {
          kernels.push_back(
              {causal_conv1d_kernel(type, pack, width, silu), forward_budget(type, width), serves});
          kernels.push_back(
              {causal_conv1d_backward_kernel(type, pack, width, silu),
               backward_budget(width),
               serves});
        }
        kernels.push_back(
            {causal_conv1d_step_kernel(type, pack, width),
             width <= kNarrowWidth ? kForTwelveStepBlocks : kForEightStepBlocks,
             serves});
      }
    }
    kernels.push_back({causal_conv1d_parameters_kernel(type), kForManyBlocks});
    kernels.push_back({causal_conv1d_state_gradients_kernel(type), kForFewerBlocks});
    for (const auto to : {kDouble, kFloat, kBFloat16}) {
      kernels.push_back({write_slots_kernel(type, to, 1), kForManyBlocks});
      if (type != kDouble && to != kDouble) {
        kernels.push_back({write_slots_kernel(type, to, kSlotPack), kForFewerBlocks});
      }
    }
  }
}

} // namespace baton::ops
