// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/mamba2_mixer.h"

#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/causal_conv1d.h"
#include "baton/ops/forward_only.h"
#include "baton/ops/row_checks.h"
#include "baton/ops/wants_gradient.h"

namespace baton::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Forward = Tensor(
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    std::int64_t,
    double,
    std::int64_t,
    bool,
    double,
    std::optional<double>);
using Backward = Mamba2MixerTuple(
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    std::int64_t,
    double,
    std::int64_t,
    bool,
    double,
    std::optional<double>);

Tensor call_forward(const Mamba2MixerInputs& in) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::mamba2_mixer", "").typed<Forward>();
  return op.call(
      in.projected_TC,
      in.conv_weight_CK,
      in.conv_bias_C,
      in.A_H,
      in.starts_B1,
      in.D,
      in.time_step.bias_H,
      in.norm_weight,
      in.num_groups,
      in.norm.eps,
      in.norm.group_size,
      in.norm.gate_first,
      in.time_step.min,
      in.time_step.max);
}

Mamba2MixerTuple call_backward(
    const Tensor& dout_TI,
    const Tensor& y_TI,
    const Tensor& convolved_TC,
    const Mamba2MixerInputs& in) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("baton::mamba2_mixer_backward", "")
                             .typed<Backward>();
  return op.call(
      dout_TI,
      y_TI,
      convolved_TC,
      in.projected_TC,
      in.conv_weight_CK,
      in.conv_bias_C,
      in.A_H,
      in.starts_B1,
      in.D,
      in.time_step.bias_H,
      in.norm_weight,
      in.num_groups,
      in.norm.eps,
      in.norm.group_size,
      in.norm.gate_first,
      in.time_step.min,
      in.time_step.max);
}

OptionalTensor given(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

Tensor convolve(const Mamba2MixerInputs& in, const Tensor& xbc_TC) {
  return causal_conv1d(xbc_TC, in.conv_weight_CK, in.conv_bias_C, in.starts_B1, {}, true).y_TC;
}

/// The values that save_inputs() keeps, in its order.
Mamba2MixerInputs saved_inputs(AutogradContext* context, const variable_list& saved) {
  auto& data = context->saved_data;
  return {
      saved[0],
      saved[1],
      given(saved[2]),
      saved[3],
      saved[4],
      given(saved[5]),
      {given(saved[6]), true, data["dt_min"].toDouble(), data["dt_max"].toDouble()},
      given(saved[7]),
      {data["eps"].toDouble(), data["group_size"].toInt(), data["gate_first"].toBool()},
      data["groups"].toInt()};
}

void save_inputs(
    AutogradContext* context,
    const Mamba2MixerInputs& in,
    const Tensor& y_TI,
    const Tensor& convolved_TC) {
  context->save_for_backward(
      {in.projected_TC,
       in.conv_weight_CK,
       in.conv_bias_C.value_or(Tensor()),
       in.A_H,
       in.starts_B1,
       in.D.value_or(Tensor()),
       in.time_step.bias_H.value_or(Tensor()),
       in.norm_weight.value_or(Tensor()),
       y_TI,
       convolved_TC});
  auto& data = context->saved_data;
  data["dt_min"] = in.time_step.min;
  data["dt_max"] = in.time_step.max;
  data["eps"] = in.norm.eps;
  data["group_size"] = in.norm.group_size;
  data["gate_first"] = in.norm.gate_first;
  data["groups"] = in.num_groups;
}

struct Mamba2MixerFunction : torch::autograd::Function<Mamba2MixerFunction> {
  // Tensors that want a gradient are arguments of their own, since that is how autograd finds them.
  static Tensor forward(
      AutogradContext* context,
      const Tensor& /*projected*/,
      const Tensor& /*conv_weight*/,
      const OptionalTensor& /*conv_bias*/,
      const Tensor& /*A*/,
      const OptionalTensor& /*D*/,
      const OptionalTensor& /*dt_bias*/,
      const OptionalTensor& /*norm_weight*/,
      const Mamba2MixerInputs& in) {
    const at::AutoDispatchBelowADInplaceOrView below;
    check_mamba2_mixer(in);
    const Mamba2MixerColumns columns = mamba2_mixer_columns(in.projected_TC, in);
    const Tensor convolved_TC = convolve(in, columns.xbc_TC);
    const Tensor y_TI =
        ssd(mamba2_mixer_scan(convolved_TC, columns.dt_TH, in), {}, /*final_states=*/false)
            .y_THP.flatten(1);
    save_inputs(context, in, y_TI, convolved_TC);
    return gated_norm(y_TI, columns.z_TI, in.norm_weight, in.norm);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    auto [dprojected, dconv_weight, dconv_bias, dA, dD, ddt_bias, dnorm_weight] =
        call_backward(gradients[0], saved[8], saved[9], saved_inputs(context, saved));
    const auto if_given = [&](std::size_t i, const Tensor& gradient) {
      return saved[i].defined() ? gradient : Tensor();
    };
    return {
        dprojected,
        dconv_weight,
        if_given(2, dconv_bias),
        dA,
        if_given(5, dD),
        if_given(6, ddt_bias),
        if_given(7, dnorm_weight),
        Tensor()};
  }
};

Tensor mamba2_mixer_autograd(const Mamba2MixerInputs& in) {
  const OptionalTensor& dt_bias = in.time_step.bias_H;
  if (wants_gradient(
          {in.projected_TC,
           in.conv_weight_CK,
           in.conv_bias_C,
           in.A_H,
           in.D,
           dt_bias,
           in.norm_weight})) {
    return Mamba2MixerFunction::apply(
        in.projected_TC,
        in.conv_weight_CK,
        in.conv_bias_C,
        in.A_H,
        in.D,
        dt_bias,
        in.norm_weight,
        in);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return call_forward(in);
}

Mamba2MixerGradients mamba2_mixer_backward_meta(
    const Tensor& /*dout_TI*/,
    const Tensor& /*y_TI*/,
    const Tensor& /*convolved_TC*/,
    const Mamba2MixerInputs& in) {
  const auto like = [&](const OptionalTensor& tensor) {
    return tensor ? at::empty_symint(tensor->sym_sizes(), tensor->options())
                  : at::empty({0}, in.projected_TC.options());
  };
  return {
      like(in.projected_TC),
      like(in.conv_weight_CK),
      like(in.conv_bias_C),
      like(in.A_H),
      like(in.D),
      like(in.time_step.bias_H),
      like(in.norm_weight)};
}

} // namespace

Mamba2MixerTuple as_tuple(Mamba2MixerGradients gradients) {
  return {
      std::move(gradients.dprojected_TC),
      std::move(gradients.dconv_weight_CK),
      std::move(gradients.dconv_bias_C),
      std::move(gradients.dA_H),
      std::move(gradients.dD),
      std::move(gradients.ddt_bias_H),
      std::move(gradients.dnorm_weight)};
}

void check_mamba2_mixer(const Mamba2MixerInputs& in) {
  check_activation("projected", in.projected_TC);
  TORCH_CHECK(
      in.projected_TC.dim() == 2 && in.conv_weight_CK.dim() == 2 && in.A_H.dim() == 1,
      "projected must be [T, 2 H P + 2 G N + H], conv_weight [H P + 2 G N, K] and A [H], got ",
      in.projected_TC.sym_sizes(),
      ", ",
      in.conv_weight_CK.sym_sizes(),
      " and ",
      in.A_H.sym_sizes());
  TORCH_CHECK(in.num_groups > 0, "groups must be positive, got ", in.num_groups);
  const c10::SymInt heads = in.A_H.sym_size(0);
  const c10::SymInt channels = in.conv_weight_CK.sym_size(0);
  const c10::SymInt inner = in.projected_TC.sym_size(1) - channels - heads;
  TORCH_CHECK(
      heads > 0 && inner > 0 && inner % heads == 0 && channels > inner &&
          (channels - inner) % (2 * in.num_groups) == 0,
      "projected must have 2 H P + 2 G N + H columns and conv_weight H P + 2 G N rows, got ",
      in.projected_TC.sym_size(1),
      " and ",
      channels,
      " for H ",
      heads,
      " and G ",
      in.num_groups);
}

Tensor mamba2_mixer_in_turn(const Mamba2MixerInputs& in) {
  const Mamba2MixerColumns columns = mamba2_mixer_columns(in.projected_TC, in);
  const SsdInputs scan = mamba2_mixer_scan(convolve(in, columns.xbc_TC), columns.dt_TH, in);
  if (in.norm_weight) {
    const Tensor y_TI = ssd(scan, {}, /*final_states=*/false).y_THP.flatten(1);
    return gated_norm(y_TI, columns.z_TI, in.norm_weight, in.norm);
  }
  const Tensor z_THP =
      columns.z_TI.unflatten_symint(1, {scan.x_THP.sym_size(1), scan.x_THP.sym_size(2)});
  return ssd(scan, {}, /*final_states=*/false, z_THP).y_THP.flatten(1);
}

void check_mamba2_mixer_backward(const Tensor& convolved_TC, const Mamba2MixerInputs& in) {
  check_mamba2_mixer(in);
  TORCH_CHECK(
      convolved_TC.dim() == 2 && convolved_TC.sym_size(0) == in.projected_TC.sym_size(0) &&
          convolved_TC.sym_size(1) == in.conv_weight_CK.sym_size(0) &&
          convolved_TC.scalar_type() == in.projected_TC.scalar_type() &&
          convolved_TC.device() == in.projected_TC.device(),
      "convolved must be [",
      in.projected_TC.sym_size(0),
      ", ",
      in.conv_weight_CK.sym_size(0),
      "] in ",
      in.projected_TC.scalar_type(),
      " on ",
      in.projected_TC.device(),
      ", got ",
      convolved_TC.scalar_type(),
      " ",
      convolved_TC.sym_sizes(),
      " on ",
      convolved_TC.device());
}

Mamba2MixerColumns mamba2_mixer_columns(const Tensor& rows_TC, const Mamba2MixerInputs& in) {
  const c10::SymInt heads = in.A_H.sym_size(0);
  const c10::SymInt channels = in.conv_weight_CK.sym_size(0);
  const c10::SymInt inner = rows_TC.sym_size(1) - channels - heads;
  return {
      rows_TC.narrow_symint(1, 0, inner),
      rows_TC.narrow_symint(1, inner, channels),
      rows_TC.narrow_symint(1, inner + channels, heads)};
}

SsdInputs
mamba2_mixer_scan(const Tensor& convolved_TC, const Tensor& dt_TH, const Mamba2MixerInputs& in) {
  const c10::SymInt heads = in.A_H.sym_size(0);
  const c10::SymInt channels = convolved_TC.sym_size(1);
  const c10::SymInt inner = in.projected_TC.sym_size(1) - channels - heads;
  const c10::SymInt keys = (channels - inner) / 2;
  const auto of_groups = [&](const c10::SymInt& first) {
    return convolved_TC.narrow_symint(1, first, keys)
        .unflatten_symint(1, {c10::SymInt(in.num_groups), keys / in.num_groups});
  };
  return {
      convolved_TC.narrow_symint(1, 0, inner).unflatten_symint(1, {heads, inner / heads}),
      dt_TH,
      in.A_H,
      of_groups(inner),
      of_groups(inner + keys),
      in.starts_B1,
      in.D,
      in.time_step};
}

Tensor mamba2_mixer(const Mamba2MixerInputs& inputs) {
  TORCH_CHECK(
      inputs.time_step.softplus,
      "a mixer's time steps are the softplus of the raw ones: time_step.softplus must be true");
  return call_forward(inputs);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "mamba2_mixer(Tensor projected, Tensor conv_weight, Tensor? conv_bias, Tensor A, "
      "Tensor starts, Tensor? D=None, Tensor? dt_bias=None, Tensor? norm_weight=None, "
      "int groups=1, float eps=1e-5, int norm_group_size=0, bool gate_first=True, "
      "float dt_min=0., float? dt_max=None) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "mamba2_mixer_backward(Tensor dout, Tensor y, Tensor convolved, Tensor projected, "
      "Tensor conv_weight, Tensor? conv_bias, Tensor A, Tensor starts, Tensor? D, "
      "Tensor? dt_bias, Tensor? norm_weight, int groups, float eps, int norm_group_size, "
      "bool gate_first, float dt_min, float? dt_max) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, CompositeExplicitAutograd, library) {
  library.impl("mamba2_mixer", &mamba2_mixer_kernel<mamba2_mixer_in_turn>);
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("mamba2_mixer_backward", &mamba2_mixer_backward_kernel<mamba2_mixer_backward_meta>);
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("mamba2_mixer", &mamba2_mixer_kernel<mamba2_mixer_autograd>);
  library.impl(
      "mamba2_mixer_backward", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

} // namespace baton::ops
