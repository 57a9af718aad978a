// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/rms_norm.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/packs.h"
#include "baton/ops/cuda_kernels.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cuda {
namespace {

// Blocks that share the rows of a gradient: enough for any device, and the same on each, since the
// order of the sums follows from their number.
constexpr std::int64_t kMostBlocks = 528;
constexpr std::int64_t kMostSharedBytes = 160 << 10; // of a block, what sm_80 has

std::int64_t pack_for(const at::Tensor& x, const at::Tensor& weight_D) {
  const std::int64_t pack = widest_pack(x.scalar_type());
  return packs_fit(x, pack) && packs_fit(weight_D, pack) ? pack : 1;
}

unsigned blocks_for(std::int64_t count) {
  TORCH_CHECK(
      count <= std::numeric_limits<std::int32_t>::max(),
      "a kernel takes 2^31 - 1 rows, got ",
      count);
  return static_cast<unsigned>(count);
}

at::Tensor rms_norm_cuda(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_rms_norm(x, weight, eps);
  const at::Tensor x_TD = as_rows(x);
  const at::Tensor weight_D = weight.contiguous();
  at::Tensor y = at::empty(x.sizes(), x.options());
  if (y.numel() == 0) {
    return y;
  }
  const RmsNormKernels kernels =
      rms_norm_kernels(x.scalar_type(), weight.scalar_type(), pack_for(x_TD, weight_D));
  const Launcher launcher(x);
  launcher.launch(
      kernels.forward,
      {.grid = {blocks_for(x_TD.size(0)), 1, 1}, .block = {kRowThreads, 1, 1}},
      x_TD.const_data_ptr(),
      weight_D.const_data_ptr(),
      y.mutable_data_ptr(),
      static_cast<long long>(x_TD.stride(0)),
      static_cast<int>(x_TD.size(1)),
      eps);
  return y;
}

std::tuple<at::Tensor, at::Tensor> rms_norm_backward_cuda(
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& weight,
    double eps) {
  check_rms_norm(x, weight, eps);
  check_same("dy", dy, "x", x);
  const at::Tensor x_TD = as_rows(x);
  const at::Tensor dy_TD = as_rows(dy);
  const at::Tensor weight_D = weight.contiguous();
  at::Tensor dx = at::empty(x.sizes(), x.options());
  if (x.numel() == 0) {
    return {dx, at::zeros(weight.sizes(), weight.options())};
  }
  at::Tensor dweight = at::empty(weight.sizes(), weight.options());
  const std::int64_t rows = x_TD.size(0);
  const std::int64_t channels = x_TD.size(1);
  const std::int64_t rows_per_block = (rows + kMostBlocks - 1) / kMostBlocks;
  const std::int64_t blocks = (rows + rows_per_block - 1) / rows_per_block;
  const at::ScalarType sums = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor partials = at::empty({blocks, channels}, x.options().dtype(sums));
  const std::int64_t shared_bytes = channels * partials.element_size();
  TORCH_CHECK(
      shared_bytes <= kMostSharedBytes,
      "the gradient of rms_norm on a GPU takes at most ",
      kMostSharedBytes / partials.element_size(),
      " channels, got ",
      channels);
  const std::int64_t widest = pack_for(x_TD, weight_D);
  const RmsNormKernels kernels = rms_norm_kernels(
      x.scalar_type(), weight.scalar_type(), packs_fit(dy_TD, widest) ? widest : 1);
  const Launcher launcher(x);
  launcher.launch(
      kernels.backward,
      {.grid = {blocks_for(blocks), 1, 1},
       .block = {kRowThreads, 1, 1},
       .shared_bytes = static_cast<unsigned>(shared_bytes)},
      dy_TD.const_data_ptr(),
      x_TD.const_data_ptr(),
      weight_D.const_data_ptr(),
      dx.mutable_data_ptr(),
      partials.mutable_data_ptr(),
      static_cast<long long>(dy_TD.stride(0)),
      static_cast<long long>(x_TD.stride(0)),
      static_cast<long long>(rows),
      static_cast<long long>(rows_per_block),
      static_cast<int>(channels),
      eps);
  launcher.launch(
      kernels.sum_partials,
      {.grid = {blocks_for((channels + kWarpThreads - 1) / kWarpThreads), 1, 1},
       .block = {kRowThreads, 1, 1}},
      partials.const_data_ptr(),
      dweight.mutable_data_ptr(),
      static_cast<int>(blocks),
      static_cast<int>(channels));
  return {dx, dweight};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("rms_norm", &rms_norm_cuda);
  library.impl("rms_norm_backward", &rms_norm_backward_cuda);
}

} // namespace baton::ops::cuda
