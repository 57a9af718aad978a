// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/mamba2.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include <ATen/ATen.h>

#include "baton/nn/baton_convolution.h"
#include "baton/nn/baton_scan.h"
#include "baton/nn/tensor_ranks.h"
#include "baton/ops/causal_conv1d.h"
#include "baton/ops/mamba2_mixer.h"
#include "baton/ops/mamba2_step.h"
#include "baton/ops/ssd.h"
#include "baton/ops/write_slots.h"

namespace baton::nn {
namespace {

void check_config(const Mamba2Config& config) {
  TORCH_CHECK(
      config.num_heads % config.num_groups == 0,
      "model.mamba.num_heads must be a multiple of num_groups: ",
      config.num_heads,
      " vs ",
      config.num_groups);
  TORCH_CHECK(
      config.inner() % config.norm_group_count() == 0,
      "model.mamba.norm_groups must divide num_heads * head_dim: ",
      config.norm_group_count(),
      " vs ",
      config.inner());
  TORCH_CHECK(
      config.dt_min <= config.dt_max,
      "model.mamba.dt_min must not exceed dt_max: ",
      config.dt_min,
      " vs ",
      config.dt_max);
  TORCH_CHECK(
      config.dt_start_min <= config.dt_start_max && config.a_start_min <= config.a_start_max,
      "model.mamba: the start ranges of dt and A must not be empty");
}

/// What one of `ranks` has of the heads and groups, or, where there are fewer groups, the one that
/// it shares.
Mamba2Config config_of_rank(Mamba2Config config, int ranks) {
  check_config(config);
  check_tensor_ranks(
      ranks,
      [&](std::int64_t tp) {
        return config.num_heads % tp == 0 &&
               (config.num_groups % tp == 0 || tp % config.num_groups == 0);
      },
      "model.mamba.num_heads must be a multiple of parallel.tp, and one of num_groups and tp "
      "divide the other: num_heads " +
          std::to_string(config.num_heads) + ", num_groups " + std::to_string(config.num_groups));
  config.num_heads /= ranks;
  config.num_groups = std::max<std::int64_t>(1, config.num_groups / ranks);
  return config;
}

// dt log-uniform; the bias is its inverse softplus, dt + log(-expm1(-dt)).
ParameterSpec::StartValues start_dt_bias(const Mamba2Config& config) {
  return [config](RandomKey key, at::IntArrayRef shape) {
    const at::Tensor log_dt =
        uniform(key, shape, std::log(config.dt_start_min), std::log(config.dt_start_max));
    const at::Tensor dt = log_dt.exp().clamp_min(config.dt_start_floor);
    return dt + (-at::expm1(-dt)).log();
  };
}

ParameterSpec::StartValues start_a_log(const Mamba2Config& config) {
  return [config](RandomKey key, at::IntArrayRef shape) {
    return uniform(key, shape, config.a_start_min, config.a_start_max).log();
  };
}

} // namespace

Mamba2Core::Mamba2Core(const MixerArguments& arguments, const Mamba2Config& config)
    : whole_(config),
      config_(config_of_rank(config, arguments.store.tensor_ranks().size())),
      // States stay fp32 in a bf16 model.
      dtype_(at::promote_types(arguments.layer.dtype, at::kFloat)),
      conv_state_name_(arguments.name + ".conv"),
      ssm_state_name_(arguments.name + ".ssm") {
  const std::int64_t grouped = config.num_groups * config.state_size;
  const std::int64_t channels = config.inner() + 2 * grouped;
  const CutPart of_groups{.size = grouped, .blocks = config.num_groups};
  const ParameterCut conv_cut{.dim = 0, .parts = {{config.inner()}, of_groups, of_groups}};
  // Kaiming-uniform with a = sqrt(5) over K inputs is a bound of 1 / sqrt(K), the bias's bound too.
  const double bound = 1.0 / std::sqrt(static_cast<double>(config.conv_width));
  ParameterStore& store = arguments.store;
  conv_weight_ = &store.declare(
      {.name = arguments.name + ".conv1d.weight",
       .shape = {channels, config.conv_width},
       .cut = conv_cut,
       .start = start_uniform(-bound, bound)});
  if (config.conv_bias) {
    conv_bias_ = &store.declare(
        {.name = arguments.name + ".conv1d.bias",
         .shape = {channels},
         .cut = conv_cut,
         .start = start_uniform(-bound, bound),
         .weight_decay = false});
  }
  const auto declare_per_head = [&](const std::string& name, ParameterSpec::StartValues start) {
    return &store.declare(
        {.name = arguments.name + "." + name,
         .shape = {config.num_heads},
         .cut = {.dim = 0, .parts = {}},
         .start = std::move(start),
         .weight_decay = false,
         .keep_fp32 = true});
  };
  dt_bias_ = declare_per_head("dt_bias", start_dt_bias(config));
  A_log_ = declare_per_head("A_log", start_a_log(config));
  if (config.d_per_channel) {
    D_ = &store.declare(
        {.name = arguments.name + ".D",
         .shape = {config.num_heads, config.head_dim},
         .cut = {.dim = 0, .parts = {}},
         .start = start_constant(1.0),
         .weight_decay = false,
         .keep_fp32 = true});
  } else {
    D_ = declare_per_head("D", start_constant(1.0));
  }
}

std::int64_t Mamba2Core::conv_channels() const {
  return config_.inner() + 2 * config_.num_groups * config_.state_size;
}

std::vector<CutPart> Mamba2Core::input_parts() const {
  const CutPart of_groups{
      .size = whole_.num_groups * whole_.state_size, .blocks = whole_.num_groups};
  return {{whole_.inner()}, of_groups, of_groups, {whole_.num_heads}};
}

std::vector<StateSpec> Mamba2Core::states() const {
  return {
      {.name = conv_state_name_,
       .shape = {conv_channels(), config_.conv_width - 1},
       .dtype = dtype_,
       .kind = StateKind::kFixedSlot},
      {.name = ssm_state_name_,
       .shape = {config_.num_heads, config_.head_dim, config_.state_size},
       .dtype = dtype_,
       .kind = StateKind::kFixedSlot}};
}

Mamba2Core::Input Mamba2Core::split_parts(const at::Tensor& parts_TC) const {
  const std::vector<at::Tensor> parts =
      parts_TC.split_with_sizes({conv_channels(), config_.num_heads}, 1);
  return {.xbc_TC = parts[0], .dt_TH = parts[1]};
}

Mamba2Core::Share Mamba2Core::all_heads() const {
  return {0, config_.num_heads, 0, config_.num_groups};
}

Mamba2Core::Share Mamba2Core::own_heads(const parallel::Context& shared) const {
  const std::int64_t ranks = shared.group().size();
  TORCH_CHECK(
      config_.num_heads % ranks == 0 &&
          (config_.num_groups % ranks == 0 || ranks % config_.num_groups == 0),
      "parallel.context = all_to_all wants model.mamba.num_heads to be a multiple of cp, and one "
      "of num_groups and cp to divide the other; a rank of parallel.tp has heads ",
      config_.num_heads,
      ", groups ",
      config_.num_groups,
      ", cp ",
      ranks);
  const std::int64_t heads = config_.num_heads / ranks;
  const auto [first_group, groups] = shared.own_groups(config_.num_groups);
  return {shared.group().rank() * heads, heads, first_group, groups};
}

ops::SsdTimeStep Mamba2Core::time_step(const at::Tensor& bias_H) const {
  return {.bias_H = bias_H, .softplus = true, .min = config_.dt_min, .max = config_.dt_max};
}

ops::SsdInputs Mamba2Core::scan_inputs(
    const at::Tensor& convolved_TC,
    const at::Tensor& dt_TH,
    const at::Tensor& starts_B1,
    const Share& share) const {
  const std::int64_t grouped = share.groups * config_.state_size;
  const std::vector<at::Tensor> parts =
      convolved_TC.split_with_sizes({share.heads * config_.head_dim, grouped, grouped}, 1);
  const std::vector<std::int64_t> groups{share.groups, config_.state_size};
  const auto of_heads = [&](const Parameter* parameter) {
    return share.heads == config_.num_heads
               ? parameter->value
               : parameter->value.narrow(0, share.first_head, share.heads);
  };
  return {
      .x_THP = parts[0].unflatten(1, {share.heads, config_.head_dim}),
      .dt_TH = dt_TH,
      .A_H = of_heads(A_log_).exp().neg(),
      .B_TGN = parts[1].unflatten(1, groups),
      .C_TGN = parts[2].unflatten(1, groups),
      .starts = starts_B1,
      .D = of_heads(D_),
      .time_step = time_step(of_heads(dt_bias_))};
}

at::Tensor Mamba2Core::train(const MixerInput& input, const StepContext& context) const {
  if (context.shared == nullptr && !input.gate.shared()) {
    return train_in_one(input, context.layout.starts_B1);
  }
  const MixerInput::Columns columns = input.split();
  const Input parts = split_parts(columns.parts_TC);
  if (context.shared == nullptr) {
    return input.gate(train_alone(parts, context.layout.starts_B1, all_heads()), columns.z_TI);
  }
  const at::Tensor y_TI = context.shared->rules().strategy == parallel::ContextStrategy::kBaton
                              ? train_by_baton(parts, *context.shared)
                              : train_by_heads(parts, *context.shared);
  return input.gate(y_TI, columns.z_TI);
}

at::Tensor Mamba2Core::train_in_one(const MixerInput& input, const at::Tensor& starts_B1) const {
  return ops::mamba2_mixer(
      {.projected_TC = input.projected_TC,
       .conv_weight_CK = conv_weight_->value,
       .conv_bias_C = value_of(conv_bias_),
       .A_H = A_log_->value.exp().neg(),
       .starts_B1 = starts_B1,
       .D = D_->value,
       .time_step = time_step(dt_bias_->value),
       .norm_weight = input.gate.weight(),
       .norm = input.gate.config(),
       .num_groups = config_.num_groups});
}

at::Tensor
Mamba2Core::train_alone(const Input& input, const at::Tensor& starts_B1, const Share& share) const {
  // x, B and C of the share among the channels of the convolution.
  const auto of_channels = [&](const at::Tensor& values) {
    if (share.heads == config_.num_heads) {
      return values;
    }
    const std::int64_t grouped = config_.num_groups * config_.state_size;
    const std::int64_t first = config_.inner() + share.first_group * config_.state_size;
    const std::int64_t size = share.groups * config_.state_size;
    return at::cat(
        {values.narrow(0, share.first_head * config_.head_dim, share.heads * config_.head_dim),
         values.narrow(0, first, size),
         values.narrow(0, first + grouped, size)});
  };
  const std::optional<at::Tensor> bias =
      conv_bias_ == nullptr ? std::nullopt : std::optional(of_channels(conv_bias_->value));
  const at::Tensor xbc_TC =
      ops::causal_conv1d(input.xbc_TC, of_channels(conv_weight_->value), bias, starts_B1, {}, true)
          .y_TC;
  return ops::ssd(scan_inputs(xbc_TC, input.dt_TH, starts_B1, share), {}, /*final_states=*/false)
      .y_THP.flatten(1);
}

at::Tensor Mamba2Core::train_by_baton(const Input& input, const parallel::Context& shared) const {
  const at::Tensor xbc_TC =
      baton_convolution(input.xbc_TC, conv_weight_->value, value_of(conv_bias_), shared);
  return baton_scan(
             scan_inputs(xbc_TC, input.dt_TH, shared.layout().starts_B1, all_heads()), shared)
      .flatten(1);
}

at::Tensor Mamba2Core::train_by_heads(const Input& input, const parallel::Context& shared) const {
  const Share share = own_heads(shared);
  const std::int64_t ranks = shared.group().size();
  const std::int64_t grouped = config_.num_groups * config_.state_size;
  const std::vector<at::Tensor> parts =
      input.xbc_TC.split_with_sizes({config_.inner(), grouped, grouped}, 1);
  const std::vector<std::int64_t> groups{config_.num_groups, config_.state_size};
  const at::Tensor columns = shared.to_columns(at::cat(
      {parts[0].unflatten(1, {ranks, -1}),
       shared.share_groups(parts[1].unflatten(1, groups)),
       shared.share_groups(parts[2].unflatten(1, groups)),
       input.dt_TH.unflatten(1, {ranks, -1})},
      2));
  const std::vector<at::Tensor> own =
      columns.split_with_sizes({columns.size(1) - share.heads, share.heads}, 1);
  const at::Tensor y_TC = train_alone({own[0], own[1]}, shared.stream().starts_B1, share);
  return shared.to_rows(y_TC).flatten(1);
}

at::Tensor Mamba2Core::prefill(const MixerInput& input, const StepContext& context) const {
  const MixerInput::Columns columns = input.split();
  const Input parts = split_parts(columns.parts_TC);
  const at::Tensor& conv_state = context.cache->at(conv_state_name_);
  const at::Tensor& ssm_state = context.cache->at(ssm_state_name_);
  const SequenceLayout& layout = context.layout;
  const ops::CausalConv1dOutput convolved = ops::causal_conv1d(
      parts.xbc_TC,
      conv_weight_->value,
      value_of(conv_bias_),
      layout.starts_B1,
      {.initial_states = conv_state, .initial_slots_B = layout.initial_slots_B},
      true);
  ops::write_slots_(conv_state, layout.final_slots_B, convolved.final_states_BCK);
  // Without a norm the scan itself gates what it writes.
  const std::optional<at::Tensor> z_THP =
      input.gate.norms()
          ? std::nullopt
          : std::optional(columns.z_TI.unflatten(1, {config_.num_heads, config_.head_dim}));
  const ops::SsdOutput scanned = ops::ssd(
      scan_inputs(convolved.y_TC, parts.dt_TH, layout.starts_B1, all_heads()),
      {.states_SHPN = ssm_state, .slots_B = layout.initial_slots_B},
      /*final_states=*/true,
      z_THP);
  ops::write_slots_(ssm_state, layout.final_slots_B, scanned.final_states_BHPN);
  const at::Tensor y_TI = scanned.y_THP.flatten(1);
  return z_THP ? y_TI : input.gate(y_TI, columns.z_TI);
}

at::Tensor Mamba2Core::step(const MixerStep& layer, const StepContext& context) const {
  // A step continues its sequence in place: the slot it reads is the slot it writes.
  return ops::mamba2_step_(
      {.hidden_BD = layer.hidden_TD,
       .frame = layer.frame,
       .in_weight_CD = layer.in_proj.weight(),
       .in_bias_C = layer.in_proj.bias_value(),
       .conv_weight_CK = conv_weight_->value,
       .conv_bias_C = value_of(conv_bias_),
       .A_log_H = A_log_->value,
       .D = D_->value,
       .dt_bias_H = dt_bias_->value,
       .dt_min = config_.dt_min,
       .dt_max = config_.dt_max,
       .norm_weight = layer.gate.weight(),
       .norm = layer.gate.config(),
       .out_weight_DI = layer.out_proj.weight(),
       .out_bias_D = layer.out_proj.bias_value(),
       .num_groups = config_.num_groups},
      {.conv_SCK = context.cache->at(conv_state_name_),
       .ssm_SHPN = context.cache->at(ssm_state_name_),
       .slots_B = context.layout.final_slots_B});
}

} // namespace baton::nn
