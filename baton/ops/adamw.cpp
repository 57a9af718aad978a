// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/adamw.h"

#include <initializer_list>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/library.h>

namespace baton::ops {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using AdamwSignature = void(
    const at::Tensor&,
    const at::Tensor&,
    const at::Tensor&,
    const at::Tensor&,
    const OptionalTensor&,
    double,
    double,
    double,
    double,
    double,
    std::int64_t,
    double);

const c10::TypedOperatorHandle<AdamwSignature>& adamw_handle() {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::adamw_", "").typed<AdamwSignature>();
  return handle;
}

void adamw_meta(
    const at::Tensor& parameter,
    const at::Tensor& grad,
    const at::Tensor& exp_avg,
    const at::Tensor& exp_avg_sq,
    const OptionalTensor& master,
    double,
    double,
    double,
    double,
    double,
    std::int64_t,
    double) {
  const auto same_shape = [&](const at::Tensor& tensor) {
    return tensor.sym_sizes() == parameter.sym_sizes();
  };
  TORCH_CHECK(
      same_shape(grad) && same_shape(exp_avg) && same_shape(exp_avg_sq) &&
          (!master.has_value() || same_shape(*master)),
      "adamw_: gradient, moments and master must have the parameter's shape ",
      parameter.sym_sizes());
}

/// The update has no derivative here: an input that wants one would lose it silently.
void adamw_autograd(
    const at::Tensor& parameter,
    const at::Tensor& grad,
    const at::Tensor& exp_avg,
    const at::Tensor& exp_avg_sq,
    const OptionalTensor& master,
    double lr,
    double beta1,
    double beta2,
    double eps,
    double weight_decay,
    std::int64_t step,
    double grad_scale) {
  if (at::GradMode::is_enabled()) {
    const at::Tensor no_master;
    for (const at::Tensor& input :
         {parameter, grad, exp_avg, exp_avg_sq, master.value_or(no_master)}) {
      TORCH_CHECK(
          !input.defined() || !input.requires_grad(),
          "adamw_ works in place and has no gradient: call it under no_grad, or detach its inputs");
    }
  }
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    adamw_handle().call(
        parameter,
        grad,
        exp_avg,
        exp_avg_sq,
        master,
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        step,
        grad_scale);
  }
  for (const at::Tensor& written : {parameter, exp_avg, exp_avg_sq}) {
    if (!written.is_inference()) {
      torch::autograd::impl::bump_version(written);
    }
  }
  if (master.has_value() && !master->is_inference()) {
    torch::autograd::impl::bump_version(*master);
  }
}

} // namespace

void adamw_(
    const at::Tensor& parameter,
    const at::Tensor& grad,
    const AdamwMoments& moments,
    const AdamwStep& step) {
  adamw_handle().call(
      parameter,
      grad,
      moments.exp_avg,
      moments.exp_avg_sq,
      moments.master,
      step.lr,
      step.beta1,
      step.beta2,
      step.eps,
      step.weight_decay,
      step.step,
      step.grad_scale);
}

} // namespace baton::ops

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "adamw_(Tensor(a!) parameter, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, "
      "Tensor(d!)? master, float lr, float beta1, float beta2, float eps, float weight_decay, "
      "int step, float grad_scale=1.0) -> ()",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("adamw_", &baton::ops::adamw_meta);
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("adamw_", &baton::ops::adamw_autograd);
}
