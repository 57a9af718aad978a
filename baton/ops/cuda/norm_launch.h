// SPDX-License-Identifier: Apache-2.0
// How norms share rows among blocks of threads, and the sums that their gradients leave.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "baton/jit/kernel.h"
#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda_kernels_rows.h"

namespace baton::ops::cuda {

/// Rows of groups of channels, and what a thread holds of a group.
struct NormRows {
  std::int64_t rows = 0;
  std::int64_t groups = 0; ///< of a row
  std::int64_t size = 0;   ///< channels of a group
  std::int64_t bytes = 0;  ///< of all rows
  NormPacks packs;
};

/// For groups of `size` channels of rows_TD. These are read several neighbours at a time if that
/// suits `inputs`, each with rows of as many channels, or a vector of them.
NormRows norm_rows(const at::Tensor& rows_TD, std::int64_t size, at::TensorList inputs);

/// A launch that takes every group once. Throws on more rows than a launch takes.
jit::LaunchShape norm_launch(const Launcher& launcher, const NormRows& rows);

/// A launch whose blocks go through rows, each of which leaves its part of the weight's gradient in
/// a row of partials, fp32, or fp64 for fp64. Their number follows from the sizes and the tuning of
/// the architecture alone.
struct NormGradientLaunch {
  jit::LaunchShape shape;
  at::Tensor partials_BD;
};

/// For activations with these options; `bytes` are those of a channel of all inputs. Throws where a
/// block's shared memory is too small for a group.
NormGradientLaunch norm_gradient_launch(
    const Launcher& launcher,
    const NormRows& rows,
    std::int64_t bytes,
    const at::TensorOptions& options);

/// out_D = the sum of partials_BD over the blocks.
void sum_partials(const Launcher& launcher, const at::Tensor& partials_BD, const at::Tensor& out_D);

} // namespace baton::ops::cuda
