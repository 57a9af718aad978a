// SPDX-License-Identifier: Apache-2.0
// The linear map on the CPU by shape-cut products.
#include "baton/ops/linear.h"

#include <tuple>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cpu/matrix_product.h"

namespace baton::ops::cpu {
namespace {

/// x [..., D] as [T, D].
at::Tensor as_rows(const at::Tensor& x) {
  return x.dim() == 2 ? x : x.flatten(0, -2);
}

at::Tensor
linear(const at::Tensor& x, const at::Tensor& weight_FD, const std::optional<at::Tensor>& bias_F) {
  check_linear(x, weight_FD, bias_F);
  c10::DimVector sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = weight_FD.size(0);
  at::Tensor y = at::empty(sizes, x.options());
  const at::Tensor y_TF = y.view({-1, std::max<std::int64_t>(1, weight_FD.size(0))});
  if (bias_F) {
    y.copy_(bias_F->expand_as(y));
  }
  if (y.numel() > 0) {
    matrix_product_out(y_TF, as_rows(x), weight_FD.t(), bias_F.has_value());
  }
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> linear_backward(
    const at::Tensor& dy,
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    bool need_dx,
    bool need_dweight,
    bool need_dbias) {
  const at::Tensor dy_TF = as_rows(dy);
  const auto none = [&] { return at::empty({0}, x.options()); };
  return {
      need_dx ? matrix_product(dy_TF, weight_FD).view(x.sizes()) : none(),
      need_dweight ? matrix_product(dy_TF.t(), as_rows(x)) : none(),
      // A product with ones, since ATen's sum over rows is cut by the number of threads.
      need_dbias ? matrix_product(at::ones({1, dy_TF.size(0)}, dy.options()), dy_TF).squeeze(0)
                 : none()};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("linear", &linear);
  library.impl("linear_backward", &linear_backward);
}

} // namespace baton::ops::cpu
