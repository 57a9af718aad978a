// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda/heads.h"

#include "baton/ops/cuda/packs.h"

namespace baton::ops::cuda {

bool heads_fit(const at::Tensor& heads, std::int64_t pack) {
  bool fits = heads.stride(-1) == 1 && packs_fit(heads, pack);
  for (std::int64_t dim = 0; dim + 1 < heads.dim(); ++dim) {
    fits = fits && (heads.size(dim) <= 1 || heads.stride(dim) % pack == 0);
  }
  return fits;
}

at::Tensor with_contiguous_channels(const at::Tensor& heads) {
  return heads.stride(-1) == 1 || heads.size(-1) <= 1 ? heads : heads.contiguous();
}

} // namespace baton::ops::cuda
