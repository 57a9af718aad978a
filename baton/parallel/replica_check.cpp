// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/replica_check.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "baton/base/error.h"

namespace baton::parallel {
namespace {

at::ScalarType integer_of_size(std::size_t bytes) {
  switch (bytes) {
    case 1:
      return at::kChar;
    case 2:
      return at::kShort;
    case 4:
      return at::kInt;
    default:
      return at::kLong;
  }
}

} // namespace

void check_replicas(
    const Group& replicas,
    const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  if (replicas.alone() || tensors.empty()) {
    return;
  }
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> sums;
  for (const auto& [name, tensor] : tensors) {
    // Integers wrap around, so their order does not matter.
    const at::Tensor flat = tensor.detach().contiguous().view({-1});
    sums.push_back(flat.view(integer_of_size(flat.element_size())).sum(at::kLong));
  }
  const at::Tensor all = replicas.all_gather(at::stack(sums)).cpu();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor sum = all.select(1, static_cast<std::int64_t>(i));
    for (int rank = 1; rank < replicas.size(); ++rank) {
      if (sum[rank].item<std::int64_t>() != sum[0].item<std::int64_t>()) {
        throw RunError(
            "the parameter '" + tensors[i].first + "' of rank " + std::to_string(rank) + " along " +
            replicas.axis() + " is not that of rank 0 there");
      }
    }
  }
}

} // namespace baton::parallel
