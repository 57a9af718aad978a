// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_kernels_flat.h"

#include <algorithm>
#include <string>
#include <utility>

namespace baton::ops {
namespace {

constexpr auto kDouble = c10::ScalarType::Double;
constexpr auto kFloat = c10::ScalarType::Float;
constexpr auto kBFloat16 = c10::ScalarType::BFloat16;

jit::KernelSpec kernel(const std::string& name, const std::string& of) {
  return {"baton/ops/cuda/" + name + ".cu", "baton::" + name + "<" + of + ">", {}};
}

} // namespace

std::int64_t widest_dropout_pack(c10::ScalarType type) {
  return std::max(kDropoutWords, widest_pack(type));
}

jit::KernelSpec dropout_kernel(c10::ScalarType type, std::int64_t pack) {
  return kernel("dropout", cuda_type_name(type) + ", " + std::to_string(pack));
}

jit::KernelSpec sum_squares_kernel(c10::ScalarType type, std::int64_t pack) {
  return kernel("sum_squares", cuda_type_name(type) + ", " + std::to_string(pack));
}

jit::KernelSpec sum_blocks_kernel() {
  return {"baton/ops/cuda/sum_squares.cu", "baton::sum_blocks<double>", {}};
}

jit::KernelSpec
adamw_kernel(c10::ScalarType parameter, c10::ScalarType gradient, std::int64_t pack) {
  const auto working = parameter == kDouble ? kDouble : kFloat;
  return kernel(
      "adamw",
      cuda_type_name(working) + ", " + cuda_type_name(parameter) + ", " + cuda_type_name(gradient) +
          ", " + std::to_string(pack));
}

void add_flat_kernels(std::vector<KernelBudget>& kernels) {
  // Registers with which six blocks of 256 threads share a multiprocessor, and four.
  constexpr int kForManyBlocks = 40;
  constexpr int kForFewerBlocks = 64;
  for (const auto type : {kDouble, kFloat, kBFloat16}) {
    for (const std::int64_t pack : {std::int64_t{1}, widest_dropout_pack(type)}) {
      kernels.push_back({dropout_kernel(type, pack), kForManyBlocks});
    }
    for (const std::int64_t pack : {std::int64_t{1}, widest_pack(type)}) {
      kernels.push_back({sum_squares_kernel(type, pack), kForManyBlocks});
    }
  }
  kernels.push_back({sum_blocks_kernel(), kForManyBlocks});
  for (const auto& [parameter, gradient] :
       {std::pair(kDouble, kDouble),
        std::pair(kFloat, kFloat),
        std::pair(kBFloat16, kFloat),
        std::pair(kBFloat16, kBFloat16)}) {
    const auto working = parameter == kDouble ? kDouble : kFloat;
    for (const std::int64_t pack : {std::int64_t{1}, widest_pack(working)}) {
      kernels.push_back({adamw_kernel(parameter, gradient, pack), kForFewerBlocks});
    }
  }
}

} // namespace baton::ops
