// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/dropout.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/packs.h"
#include "baton/ops/cuda_kernels_flat.h"
#include "baton/ops/row_checks.h"

namespace baton::ops::cuda {
namespace {

/// Packs take whole counters, so the index of each row's first element must begin one.
std::int64_t dropout_pack(const at::Tensor& x, std::int64_t first_index) {
  const std::int64_t widest = widest_dropout_pack(x.scalar_type());
  return packs_fit(x, widest) && first_index % kDropoutWords == 0 ? widest : 1;
}

at::Tensor
dropout_cuda(const at::Tensor& x_TD, std::int64_t key, std::int64_t first_row, double p) {
  check_dropout(x_TD, first_row, p);
  at::Tensor y_TD = at::empty(x_TD.sizes(), x_TD.options());
  if (x_TD.numel() == 0) {
    return y_TD;
  }
  const auto first_index = static_cast<std::int64_t>(
      static_cast<std::uint64_t>(first_row) * static_cast<std::uint64_t>(x_TD.size(1)));
  // The index runs on from row to row, so dense rows are one.
  const at::Tensor x = x_TD.is_contiguous() ? x_TD.view({1, -1}) : as_rows(x_TD);
  const std::int64_t pack = dropout_pack(x, first_index);
  const std::int64_t of_block = pack * kRowThreads;
  const std::int64_t blocks = (x.size(1) + of_block - 1) / of_block;
  TORCH_CHECK(
      x.size(0) * blocks <= std::numeric_limits<std::int32_t>::max(),
      "too much for one call of dropout: ",
      x_TD.sizes());
  const Launcher launcher(x);
  launcher.launch(
      dropout_kernel(x.scalar_type(), pack),
      {.grid = {static_cast<unsigned>(x.size(0) * blocks), 1, 1}, .block = {kRowThreads, 1, 1}},
      x.const_data_ptr(),
      y_TD.mutable_data_ptr(),
      static_cast<long long>(x.stride(0)),
      static_cast<long long>(x.size(1)),
      static_cast<long long>(key),
      static_cast<long long>(first_index),
      static_cast<int>(std::ceil(p * 0x1.0p24)),
      1.0 / (1.0 - p),
      static_cast<int>(blocks));
  return y_TD;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("dropout", &dropout_cuda);
}

} // namespace baton::ops::cuda
