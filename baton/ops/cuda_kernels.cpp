// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_kernels.h"

#include <string>
#include <utility>

#include <c10/util/Exception.h>

#include "baton/ops/cuda_kernels_attend.h"

namespace baton::ops {
namespace {

constexpr std::int64_t kPackBytes = 16;

// Registers with which six blocks of 256 threads share a multiprocessor, and four.
constexpr int kForManyBlocks = 40;
constexpr int kForFewerBlocks = 64;

} // namespace

std::string cuda_type_name(c10::ScalarType type) {
  switch (type) {
    case c10::ScalarType::Double:
      return "double";
    case c10::ScalarType::Float:
      return "float";
    case c10::ScalarType::BFloat16:
      return "__nv_bfloat16";
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(false, "no CUDA kernels for ", type);
  }
}

std::int64_t widest_pack(c10::ScalarType activation) {
  return kPackBytes / static_cast<std::int64_t>(c10::elementSize(activation));
}

RmsNormKernels
rms_norm_kernels(c10::ScalarType activation, c10::ScalarType weight, std::int64_t pack) {
  const std::string source = "baton/ops/cuda/rms_norm.cu";
  const std::string sum = activation == c10::ScalarType::Double ? "double" : "float";
  const std::string of = "<" + cuda_type_name(activation) + ", " + cuda_type_name(weight) + ", " +
                         std::to_string(pack) + ">";
  return {
      {source, "baton::rms_norm" + of, {}},
      {source, "baton::rms_norm_backward" + of, {}},
      {source, "baton::sum_partials<" + sum + ", " + cuda_type_name(weight) + ">", {}}};
}

std::vector<KernelBudget> all_kernels() {
  constexpr auto kDouble = c10::ScalarType::Double;
  constexpr auto kFloat = c10::ScalarType::Float;
  constexpr auto kBFloat16 = c10::ScalarType::BFloat16;
  std::vector<KernelBudget> kernels;
  for (const auto& [activation, weight] :
       {std::pair(kDouble, kDouble),
        std::pair(kFloat, kFloat),
        std::pair(kBFloat16, kBFloat16),
        std::pair(kBFloat16, kFloat)}) {
    for (const std::int64_t pack : {std::int64_t{1}, widest_pack(activation)}) {
      const RmsNormKernels norm = rms_norm_kernels(activation, weight, pack);
      kernels.push_back({norm.forward, kForManyBlocks});
      kernels.push_back({norm.backward, kForFewerBlocks});
      kernels.push_back({norm.sum_partials, kForManyBlocks});
    }
  }
  add_attend_kernels(kernels);
  return kernels;
}

} // namespace baton::ops
