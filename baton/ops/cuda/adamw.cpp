// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/adamw.h"

#include <cstdint>
#include <limits>
#include <optional>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/adamw_update.h"
#include "baton/ops/cuda/launch.h"
#include "baton/ops/cuda/packs.h"
#include "baton/ops/cuda_kernels_flat.h"

namespace baton::ops::cuda {
namespace {

std::int64_t
adamw_pack(const at::Tensor& parameter, const at::Tensor& grad, const AdamwMoments& moments) {
  const std::int64_t widest = widest_pack(adamw_working_type(parameter));
  bool fit = !moments.master || begins_a_pack(*moments.master, widest);
  for (const at::Tensor& tensor : {parameter, grad, moments.exp_avg, moments.exp_avg_sq}) {
    fit = fit && begins_a_pack(tensor, widest);
  }
  return fit ? widest : 1;
}

/// T is the working type.
template <class T>
void update(
    const at::Tensor& parameter,
    const at::Tensor& grad,
    const AdamwMoments& moments,
    const AdamwFactors<T>& factors) {
  const std::int64_t count = parameter.numel();
  if (count == 0) {
    return;
  }
  const std::int64_t pack = adamw_pack(parameter, grad, moments);
  const std::int64_t of_block = pack * kRowThreads;
  const std::int64_t blocks = (count + of_block - 1) / of_block;
  TORCH_CHECK(
      blocks <= std::numeric_limits<std::int32_t>::max(),
      "too much for one call of adamw_: ",
      count);
  void* master = moments.master ? moments.master->mutable_data_ptr() : nullptr;
  const Launcher launcher(parameter);
  launcher.launch(
      adamw_kernel(parameter.scalar_type(), grad.scalar_type(), pack),
      {.grid = {static_cast<unsigned>(blocks), 1, 1}, .block = {kRowThreads, 1, 1}},
      parameter.mutable_data_ptr(),
      grad.const_data_ptr(),
      moments.exp_avg.mutable_data_ptr(),
      moments.exp_avg_sq.mutable_data_ptr(),
      master,
      static_cast<long long>(count),
      factors);
}

void adamw_cuda(
    const at::Tensor& parameter,
    const at::Tensor& grad,
    const at::Tensor& exp_avg,
    const at::Tensor& exp_avg_sq,
    const std::optional<at::Tensor>& master,
    double lr,
    double beta1,
    double beta2,
    double eps,
    double weight_decay,
    std::int64_t step,
    double grad_scale) {
  const AdamwStep numbers{lr, beta1, beta2, eps, weight_decay, step, grad_scale};
  const AdamwMoments moments{exp_avg, exp_avg_sq, master};
  check_adamw(parameter, grad, moments);
  if (parameter.scalar_type() == at::kDouble) {
    update(parameter, grad.contiguous(), moments, adamw_factors<double>(numbers));
  } else {
    update(parameter, grad.contiguous(), moments, adamw_factors<float>(numbers));
  }
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("adamw_", &adamw_cuda);
}

} // namespace baton::ops::cuda
