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

void check_copies(const Group& ranks, const std::vector<Copy>& copies) {
  if (ranks.alone() || copies.empty()) {
    return;
  }
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> sums;
  for (const Copy& copy : copies) {
    // Integers wrap around, so their order does not matter.
    const at::Tensor flat = copy.values.detach().contiguous().view({-1});
    sums.push_back(flat.view(integer_of_size(flat.element_size())).sum(at::kLong));
  }
  const at::Tensor all = ranks.all_gather(at::stack(sums)).cpu();
  for (std::size_t i = 0; i < copies.size(); ++i) {
    const at::Tensor sum = all.select(1, static_cast<std::int64_t>(i));
    for (int rank = 0; rank < ranks.size(); ++rank) {
      const int first = rank - rank % copies[i].holders;
      if (sum[rank].item<std::int64_t>() != sum[first].item<std::int64_t>()) {
        throw RunError(
            "the parameter '" + copies[i].name + "' of rank " + std::to_string(rank) + " along " +
            ranks.axis() + " is not that of rank " + std::to_string(first) + " there");
      }
    }
  }
}

} // namespace baton::parallel
