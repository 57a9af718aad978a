// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/tensor_ranks.h"

#include <c10/util/Exception.h>

namespace baton::nn {

void check_tensor_ranks(
    std::int64_t ranks,
    const std::function<bool(std::int64_t)>& fits,
    const std::string& rule) {
  if (fits(ranks)) {
    return;
  }
  // One rank always fits; of two that are equally near, the one with fewer ranks.
  std::int64_t distance = 1;
  while (!fits(ranks - distance) && !fits(ranks + distance)) {
    ++distance;
  }
  const std::int64_t nearest = fits(ranks - distance) ? ranks - distance : ranks + distance;
  TORCH_CHECK(false, rule, ", tp ", ranks, "; the nearest tp that can be is ", nearest);
}

} // namespace baton::nn
