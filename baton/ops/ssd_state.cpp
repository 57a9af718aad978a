// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd_state.h"

#include <tuple>
#include <utility>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"

namespace baton::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using StateSignature = std::tuple<Tensor, Tensor>(
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    bool,
    double,
    std::optional<double>);

SsdStateOutput call(
    const c10::TypedOperatorHandle<StateSignature>& op,
    const Tensor& values,
    const Tensor& keys,
    const SsdInputs& in) {
  auto [states, log_decay] = op.call(
      values,
      in.dt_TH,
      in.A_H,
      keys,
      in.starts,
      in.time_step.bias_H,
      in.time_step.softplus,
      in.time_step.min,
      in.time_step.max);
  return {std::move(states), std::move(log_decay)};
}

std::tuple<Tensor, Tensor> meta(
    const Tensor& values,
    const Tensor& dt,
    const Tensor& A,
    const Tensor& keys,
    const Tensor& starts,
    const OptionalTensor& dt_bias,
    bool dt_softplus,
    double dt_min,
    std::optional<double> dt_max) {
  TORCH_CHECK(
      values.dim() == 3 && keys.dim() == 3 && starts.dim() == 1,
      "x (or dy) must have dims [T, H, P], B (or C) [T, G, N], starts [B + 1]");
  const auto options = values.options().dtype(ssd_state_dtype(values));
  const auto num_sequences = starts.sym_size(0) - 1;
  return {
      at::empty_symint(
          {num_sequences, values.sym_size(1), values.sym_size(2), keys.sym_size(2)}, options),
      at::empty_symint({num_sequences, values.sym_size(1)}, options)};
}

} // namespace

SsdStateOutput ssd_state(const SsdInputs& inputs) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::ssd_state", "")
                             .typed<StateSignature>();
  return call(op, inputs.x_THP, inputs.B_TGN, inputs);
}

SsdStateOutput ssd_state_grad(const Tensor& dy_THP, const SsdInputs& inputs) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::ssd_state_grad", "")
                             .typed<StateSignature>();
  return call(op, dy_THP, inputs.C_TGN, inputs);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "ssd_state(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor starts, Tensor? dt_bias=None, "
      "bool dt_softplus=True, float dt_min=0., float? dt_max=None) -> (Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "ssd_state_grad(Tensor dy, Tensor dt, Tensor A, Tensor C, Tensor starts, "
      "Tensor? dt_bias=None, bool dt_softplus=True, float dt_min=0., float? dt_max=None) -> "
      "(Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("ssd_state", &meta);
  library.impl("ssd_state_grad", &meta);
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("ssd_state", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
  library.impl("ssd_state_grad", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

} // namespace baton::ops
