// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/adamw_update.h"

#include <cmath>

#include <ATen/ATen.h>

namespace baton::ops {
namespace {

bool is_dense_like(const at::Tensor& parameter, at::ScalarType dtype, const at::Tensor& kept) {
  return kept.scalar_type() == dtype && kept.is_contiguous() && kept.device() == parameter.device();
}

} // namespace

template <class T>
AdamwFactors<T> adamw_factors(const AdamwStep& step) {
  TORCH_CHECK(step.step >= 1, "adamw_: steps count from 1, got ", step.step);
  TORCH_CHECK(
      step.beta1 >= 0.0 && step.beta1 < 1.0 && step.beta2 >= 0.0 && step.beta2 < 1.0,
      "adamw_: beta1 and beta2 must be in [0, 1): ",
      step.beta1,
      ", ",
      step.beta2);
  const double correction1 = 1.0 - std::pow(step.beta1, static_cast<double>(step.step));
  const double correction2 = 1.0 - std::pow(step.beta2, static_cast<double>(step.step));
  return {
      .grad_scale = static_cast<T>(step.grad_scale),
      .keep = static_cast<T>(1.0 - step.lr * step.weight_decay),
      .beta1 = static_cast<T>(step.beta1),
      .rest1 = static_cast<T>(1.0 - step.beta1),
      .beta2 = static_cast<T>(step.beta2),
      .rest2 = static_cast<T>(1.0 - step.beta2),
      .root_correction = static_cast<T>(1.0 / std::sqrt(correction2)),
      .eps = static_cast<T>(step.eps),
      .step_size = static_cast<T>(step.lr / correction1)};
}

template AdamwFactors<float> adamw_factors(const AdamwStep& step);
template AdamwFactors<double> adamw_factors(const AdamwStep& step);

at::ScalarType adamw_working_type(const at::Tensor& parameter) {
  return parameter.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

void check_adamw(const at::Tensor& parameter, const at::Tensor& grad, const AdamwMoments& moments) {
  const at::ScalarType dtype = parameter.scalar_type();
  TORCH_CHECK(
      dtype == at::kDouble || dtype == at::kFloat || dtype == at::kBFloat16,
      "adamw_: a parameter is fp64, fp32 or bf16, got ",
      dtype);
  const at::ScalarType working = adamw_working_type(parameter);
  TORCH_CHECK(
      grad.scalar_type() == dtype || grad.scalar_type() == working,
      "adamw_: the gradient must have the parameter's dtype ",
      dtype,
      " or ",
      working,
      ", got ",
      grad.scalar_type());
  TORCH_CHECK(parameter.is_contiguous(), "adamw_: the parameter must be contiguous");
  const at::Tensor master = moments.master.value_or(at::Tensor());
  for (const at::Tensor& kept : {moments.exp_avg, moments.exp_avg_sq, master}) {
    TORCH_CHECK(
        !kept.defined() || is_dense_like(parameter, working, kept),
        "adamw_: moments and master must be contiguous ",
        working,
        " on ",
        parameter.device(),
        ", got ",
        kept.scalar_type(),
        " on ",
        kept.device(),
        " with strides ",
        kept.strides());
  }
  TORCH_CHECK(
      grad.device() == parameter.device(),
      "adamw_: the gradient is on ",
      grad.device(),
      ", the parameter on ",
      parameter.device());
  for (const at::Tensor& other : {grad, moments.exp_avg, moments.exp_avg_sq, master}) {
    TORCH_CHECK(
        !other.defined() || other.sizes() == parameter.sizes(),
        "adamw_: gradient, moments and master must have the parameter's shape: ",
        other.sizes(),
        " vs ",
        parameter.sizes());
  }
}

} // namespace baton::ops
