// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/mamba2_step.h"

#include <vector>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/causal_conv1d.h"
#include "baton/ops/forward_only.h"
#include "baton/ops/linear.h"
#include "baton/ops/row_checks.h"
#include "baton/ops/ssd_step.h"

namespace baton::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Step = Tensor(
    const Tensor&,
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const Tensor&,
    const OptionalTensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const Tensor&,
    const OptionalTensor&,
    Tensor&,
    Tensor&,
    const Tensor&,
    std::int64_t,
    double,
    double,
    std::int64_t,
    bool,
    double,
    std::optional<double>,
    double);

Tensor step_meta(const Mamba2StepInputs& in, const Mamba2StepStates& /*states*/) {
  return at::empty_symint(in.hidden_BD.sym_sizes(), in.hidden_BD.options());
}

} // namespace

Mamba2StepSizes checked_mamba2_step(const Mamba2StepInputs& in) {
  check_activation("hidden", in.hidden_BD);
  TORCH_CHECK(
      in.hidden_BD.dim() == 2 && in.in_weight_CD.dim() == 2 && in.conv_weight_CK.dim() == 2 &&
          in.A_log_H.dim() == 1,
      "hidden must be [B, D], in_weight [2 H P + 2 G N + H, D], conv_weight [H P + 2 G N, K] and "
      "A_log [H], got ",
      in.hidden_BD.sizes(),
      ", ",
      in.in_weight_CD.sizes(),
      ", ",
      in.conv_weight_CK.sizes(),
      " and ",
      in.A_log_H.sizes());
  TORCH_CHECK(in.num_groups > 0, "groups must be positive, got ", in.num_groups);
  const std::int64_t width = in.hidden_BD.size(1);
  const std::int64_t heads = in.A_log_H.size(0);
  const std::int64_t channels = in.conv_weight_CK.size(0);
  const std::int64_t columns = in.in_weight_CD.size(0);
  const std::int64_t inner = columns - channels - heads;
  TORCH_CHECK(
      heads > 0 && heads % in.num_groups == 0 && inner > 0 && inner % heads == 0 &&
          channels > inner && (channels - inner) % (2 * in.num_groups) == 0,
      "in_weight must have 2 H P + 2 G N + H rows and conv_weight H P + 2 G N, got ",
      columns,
      " and ",
      channels,
      " for H ",
      heads,
      " and G ",
      in.num_groups);
  TORCH_CHECK(
      in.conv_weight_CK.size(1) >= 1 && in.conv_weight_CK.size(1) <= kMaxConvWidth,
      "the width of the convolution must lie in [1, ",
      kMaxConvWidth,
      "], got ",
      in.conv_weight_CK.size(1));
  check_sizes("in_weight", in.in_weight_CD, {columns, width});
  check_sizes("in_bias", in.in_bias_C, {columns});
  check_sizes("conv_bias", in.conv_bias_C, {channels});
  check_sizes("dt_bias", in.dt_bias_H, {heads});
  if (in.D && in.D->dim() == 2) {
    check_sizes("D", in.D, {heads, inner / heads});
  } else {
    check_sizes("D", in.D, {heads});
  }
  check_sizes("norm_weight", in.norm_weight, {inner});
  check_sizes("out_weight", in.out_weight_DI, {width, inner});
  check_sizes("out_bias", in.out_bias_D, {width});
  TORCH_CHECK(
      !in.norm_weight || (in.norm.group_size > 0 && inner % in.norm.group_size == 0),
      "norm_group_size must divide ",
      inner,
      ", got ",
      in.norm.group_size);
  TORCH_CHECK(
      in.dt_min <= in.dt_max, "dt_min must not be above dt_max: ", in.dt_min, " vs ", in.dt_max);
  return {.heads = heads, .inner = inner, .channels = channels, .keys = (channels - inner) / 2};
}

Tensor mamba2_step_by_operators_(const Mamba2StepInputs& in, const Mamba2StepStates& states) {
  const auto [heads, inner, channels, keys] = checked_mamba2_step(in);
  const Tensor projected_BC =
      ops::linear(norm_in(in.frame, in.hidden_BD), in.in_weight_CD, in.in_bias_C);
  const std::vector<Tensor> columns =
      projected_BC.split_with_sizes({inner, channels, heads}, 1); // z; x, B and C; dt
  const Tensor convolved_BC = causal_conv1d_step_(
      columns[1], in.conv_weight_CK, in.conv_bias_C, states.conv_SCK, states.slots_B, true);
  const std::vector<Tensor> parts = convolved_BC.split_with_sizes({inner, keys, keys}, 1);
  const std::vector<std::int64_t> groups{in.num_groups, keys / in.num_groups};
  Tensor ssm_SHPN = states.ssm_SHPN;
  const Tensor y_BHP = ssd_step_(
      {.x_BHP = parts[0].unflatten(1, {heads, inner / heads}),
       .dt_BH = columns[2],
       .A_H = in.A_log_H.exp().neg(),
       .B_BGN = parts[1].unflatten(1, groups),
       .C_BGN = parts[2].unflatten(1, groups),
       .D = in.D,
       .time_step = {in.dt_bias_H, true, in.dt_min, in.dt_max}},
      ssm_SHPN,
      states.slots_B);
  const Tensor gated_BI = gated_norm(y_BHP.flatten(1), columns[0], in.norm_weight, in.norm);
  return add_out(in.frame, in.hidden_BD, ops::linear(gated_BI, in.out_weight_DI, in.out_bias_D));
}

Tensor mamba2_step_(const Mamba2StepInputs& in, const Mamba2StepStates& states) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::mamba2_step_", "").typed<Step>();
  Tensor conv_SCK = states.conv_SCK;
  Tensor ssm_SHPN = states.ssm_SHPN;
  return op.call(
      in.hidden_BD,
      in.frame.norm_weight_D,
      in.in_weight_CD,
      in.in_bias_C,
      in.conv_weight_CK,
      in.conv_bias_C,
      in.A_log_H,
      in.D,
      in.dt_bias_H,
      in.norm_weight,
      in.out_weight_DI,
      in.out_bias_D,
      conv_SCK,
      ssm_SHPN,
      states.slots_B,
      in.num_groups,
      in.frame.norm_eps,
      in.norm.eps,
      in.norm.group_size,
      in.norm.gate_first,
      in.dt_min,
      in.dt_max,
      in.frame.scale);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "mamba2_step_(Tensor hidden, Tensor input_norm_weight, Tensor in_weight, Tensor? in_bias, "
      "Tensor conv_weight, Tensor? conv_bias, Tensor A_log, Tensor? D, Tensor? dt_bias, "
      "Tensor? norm_weight, Tensor out_weight, Tensor? out_bias, Tensor(a!) conv_states, "
      "Tensor(b!) ssm_states, Tensor slots, int groups=1, float input_norm_eps=1e-5, "
      "float eps=1e-5, int norm_group_size=0, bool gate_first=True, float dt_min=0., "
      "float? dt_max=None, float scale=1.) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, CompositeExplicitAutograd, library) {
  library.impl("mamba2_step_", &mamba2_step_kernel<mamba2_step_by_operators_>);
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("mamba2_step_", &mamba2_step_kernel<step_meta>);
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("mamba2_step_", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

} // namespace baton::ops
