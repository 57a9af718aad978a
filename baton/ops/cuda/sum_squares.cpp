// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/sum_squares.h"

#include <algorithm>
#include <cstdint>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/packs.h"
#include "baton/ops/cuda_kernels_flat.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cuda {
namespace {

// A block takes whole steps, of which there are more where the blocks would be more than enough for
// any device; the same on each, since the order of the sums follows from it.
constexpr std::int64_t kStep = 16384;
constexpr std::int64_t kMostBlocks = 1024;

at::Tensor sum_squares_cuda(const at::Tensor& x) {
  check_activation("x", x);
  const at::Tensor values = x.contiguous();
  const std::int64_t count = values.numel();
  const at::TensorOptions options = x.options().dtype(at::kDouble);
  if (count == 0) {
    return at::zeros({}, options);
  }
  const std::int64_t steps = (count + kStep - 1) / kStep;
  const std::int64_t per_block = (steps + kMostBlocks - 1) / kMostBlocks * kStep;
  const std::int64_t blocks = (count + per_block - 1) / per_block;
  at::Tensor sum = at::empty({}, options);
  const at::Tensor sums = blocks == 1 ? sum : at::empty({blocks}, options);
  const std::int64_t widest = widest_pack(values.scalar_type());
  const std::int64_t pack = begins_a_pack(values, widest) ? widest : 1;
  const Launcher launcher(values);
  launcher.launch(
      sum_squares_kernel(values.scalar_type(), pack),
      {.grid = {static_cast<unsigned>(blocks), 1, 1}, .block = {kRowThreads, 1, 1}},
      values.const_data_ptr(),
      sums.mutable_data_ptr<double>(),
      static_cast<long long>(count),
      static_cast<long long>(per_block));
  if (blocks > 1) {
    launcher.launch(
        sum_blocks_kernel(),
        {.grid = {1, 1, 1}, .block = {kRowThreads, 1, 1}},
        sums.const_data_ptr<double>(),
        sum.mutable_data_ptr<double>(),
        static_cast<int>(blocks));
  }
  return sum;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("sum_squares", &sum_squares_cuda);
}

} // namespace baton::ops::cuda
