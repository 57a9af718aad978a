// SPDX-License-Identifier: Apache-2.0
// The linear map on a GPU, by ATen's products.
#include "baton/ops/linear.h"

#include <optional>
#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

namespace baton::ops::cuda {
namespace {

/// x [..., D] as [T, D].
at::Tensor flat_rows(const at::Tensor& x) {
  return x.dim() == 2 ? x : x.flatten(0, -2);
}

at::Tensor linear_cuda(
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  check_linear(x, weight_FD, bias_F);
  const at::Tensor x_TD = flat_rows(x);
  const at::Tensor y_TF =
      bias_F ? at::addmm(*bias_F, x_TD, weight_FD.t()) : at::mm(x_TD, weight_FD.t());
  c10::DimVector sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = weight_FD.size(0);
  return y_TF.view(sizes);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> linear_backward_cuda(
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    bool need_dx,
    bool need_dweight,
    bool need_dbias) {
  const at::Tensor dy_TF = flat_rows(dy);
  const auto none = [&] { return at::empty({0}, x.options()); };
  return {
      need_dx ? at::mm(dy_TF, weight_FD).view(x.sizes()) : none(),
      need_dweight ? at::mm(dy_TF.t(), flat_rows(x)) : none(),
      need_dbias ? dy_TF.sum(0) : none()};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CUDA, library) {
  library.impl("linear", &linear_cuda);
  library.impl("linear_backward", &linear_backward_cuda);
}

} // namespace baton::ops::cuda
