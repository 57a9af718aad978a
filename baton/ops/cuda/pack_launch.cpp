// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda/pack_launch.h"

#include <algorithm>
#include <limits>

#include <ATen/ATen.h>

#include "baton/ops/cuda/pack_loop_shape.cuh"
#include "baton/ops/cuda/packs.h"
#include "baton/ops/cuda_kernels_rows.h"

namespace baton::ops::cuda {

PackRows pack_rows(std::int64_t channels, at::TensorList inputs) {
  const std::int64_t widest = row_pack(inputs.front().scalar_type());
  const bool fit = channels % widest == 0 &&
                   std::all_of(inputs.begin(), inputs.end(), [&](const at::Tensor& input) {
                     return packs_fit(input, widest);
                   });
  return {inputs.front().size(0), channels, fit ? widest : 1};
}

jit::LaunchShape pack_launch(const PackRows& rows) {
  constexpr std::int64_t kBlockPacks = std::int64_t{kPacksOfThread} * kRowThreads;
  const std::int64_t packs = rows.rows * (rows.channels / rows.pack);
  const std::int64_t blocks = (packs + kBlockPacks - 1) / kBlockPacks;
  TORCH_CHECK(
      blocks <= std::numeric_limits<std::int32_t>::max(),
      "a kernel takes 2^31 - 1 blocks of values, got ",
      blocks);
  return {.grid = {static_cast<unsigned>(blocks), 1, 1}, .block = {kRowThreads, 1, 1}};
}

} // namespace baton::ops::cuda
