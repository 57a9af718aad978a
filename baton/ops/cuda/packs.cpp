// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda/packs.h"

#include <algorithm>

namespace baton::ops::cuda {

bool begins_a_pack(const at::Tensor& tensor, std::int64_t pack) {
  constexpr std::uintptr_t kMostBytes = 16; // that a thread reads at once
  const std::uintptr_t bytes = std::min<std::uintptr_t>(
      kMostBytes, static_cast<std::uintptr_t>(pack) * tensor.element_size());
  return reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()) % bytes == 0;
}

bool packs_fit(const at::Tensor& rows_TD, std::int64_t pack) {
  const bool rows_fit = rows_TD.dim() < 2 || rows_TD.size(0) <= 1 || rows_TD.stride(0) % pack == 0;
  return rows_fit && rows_TD.size(-1) % pack == 0 && begins_a_pack(rows_TD, pack);
}

} // namespace baton::ops::cuda
