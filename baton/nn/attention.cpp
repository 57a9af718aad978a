// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/attention.h"

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>

#include "baton/nn/gathered_attention.h"
#include "baton/nn/gathered_linear.h"
#include "baton/nn/ring_attention.h"
#include "baton/nn/tensor_ranks.h"
#include "baton/ops/attention.h"
#include "baton/ops/attention_step.h"
#include "baton/ops/paged_attention.h"
#include "baton/ops/rms_norm.h"
#include "baton/ops/rotary.h"

namespace baton::nn {
namespace {

void check_config(const AttentionConfig& config) {
  TORCH_CHECK(
      config.num_heads % config.num_kv_heads == 0,
      "model.attention.num_heads must be a multiple of num_kv_heads: ",
      config.num_heads,
      " vs ",
      config.num_kv_heads);
  TORCH_CHECK(
      config.sliding_window == 0,
      "model.attention.sliding_window is not supported, got ",
      config.sliding_window);
  TORCH_CHECK(
      config.dropout == 0.0,
      "model.attention.dropout: dropout on attention probabilities is not supported, got ",
      config.dropout);
}

/// What one of `ranks` has of the heads: those of keys too, or, where there are fewer of them, one
/// that it shares.
AttentionConfig config_of_rank(AttentionConfig config, int ranks) {
  check_config(config);
  check_tensor_ranks(
      ranks,
      [&](std::int64_t tp) {
        return config.num_heads % tp == 0 &&
               (config.num_kv_heads % tp == 0 || tp % config.num_kv_heads == 0);
      },
      "model.attention.num_heads must be a multiple of parallel.tp, and one of num_kv_heads and "
      "tp divide the other: num_heads " +
          std::to_string(config.num_heads) + ", num_kv_heads " +
          std::to_string(config.num_kv_heads));
  config.num_heads /= ranks;
  config.num_kv_heads = std::max<std::int64_t>(1, config.num_kv_heads / ranks);
  return config;
}

LinearOptions head_projection(
    const SublayerArguments& arguments,
    const std::string& name,
    std::int64_t AttentionConfig::*heads) {
  const AttentionConfig& config = arguments.config.attention;
  const std::int64_t num_heads = config.*heads;
  return {
      .name = arguments.layer_name + ".attention." + name,
      .in = arguments.config.width,
      .out = num_heads * config.head_dim,
      .bias = config.bias,
      .cut = {.dim = 0, .parts = {{num_heads * config.head_dim, num_heads}}},
      .start_deviation = arguments.config.start_deviation};
}

LinearOptions output_projection(const SublayerArguments& arguments) {
  const AttentionConfig& config = arguments.config.attention;
  return {
      .name = arguments.layer_name + ".attention.o_proj",
      .in = config.num_heads * config.head_dim,
      .out = arguments.config.width,
      .bias = config.bias,
      .cut = {.dim = 1, .parts = {}},
      .start_deviation = arguments.config.start_deviation * arguments.config.output_start_scale};
}

const Parameter* declare_head_norm(const SublayerArguments& arguments, const std::string& name) {
  return &arguments.store.declare(
      {.name = arguments.layer_name + ".attention." + name + ".weight",
       .shape = {arguments.config.attention.head_dim},
       .cut = {},
       .start = start_constant(1.0),
       .weight_decay = false});
}

} // namespace

Attention::Attention(const SublayerArguments& arguments)
    : tensor_ranks_(arguments.store.tensor_ranks()),
      config_(config_of_rank(arguments.config.attention, tensor_ranks_.size())),
      norm_eps_(arguments.config.norm_eps),
      dtype_(arguments.config.dtype),
      scale_(config_.score_scale()),
      name_(arguments.layer_name + ".attention"),
      q_proj_(head_projection(arguments, "q_proj", &AttentionConfig::num_heads), arguments.store),
      k_proj_(
          head_projection(arguments, "k_proj", &AttentionConfig::num_kv_heads),
          arguments.store),
      v_proj_(
          head_projection(arguments, "v_proj", &AttentionConfig::num_kv_heads),
          arguments.store),
      o_proj_(output_projection(arguments), arguments.store) {
  if (config_.query_key_norm) {
    q_norm_ = declare_head_norm(arguments, "q_norm");
    k_norm_ = declare_head_norm(arguments, "k_norm");
  }
  if (config_.rotary.enabled) {
    const ops::RotaryFrequencies frequencies = ops::rotary_frequencies(
        {.head_dim = config_.head_dim,
         .base = config_.rotary.base,
         .fraction = config_.rotary.fraction,
         .scaling = config_.rotary.scaling,
         .factor = config_.rotary.factor,
         .original_length = config_.rotary.original_length,
         .beta_fast = config_.rotary.beta_fast,
         .beta_slow = config_.rotary.beta_slow,
         .mscale = config_.rotary.mscale,
         .mscale_all_dim = config_.rotary.mscale_all_dim,
         .attention_factor = config_.rotary.attention_factor == 0.0
                                 ? std::nullopt
                                 : std::optional(config_.rotary.attention_factor)});
    inverse_frequencies_ = &arguments.store.declare_constant(frequencies.inverse_frequencies);
    attention_factor_ = frequencies.attention_factor;
  }
}

std::vector<StateSpec> Attention::states() const {
  const std::vector<std::int64_t> shape{config_.num_kv_heads, config_.head_dim};
  return {
      {.name = name_ + ".key", .shape = shape, .dtype = dtype_, .kind = StateKind::kGrowsByToken},
      {.name = name_ + ".value",
       .shape = shape,
       .dtype = dtype_,
       .kind = StateKind::kGrowsByToken}};
}

at::Tensor
Attention::heads(const at::Tensor& x, const Parameter* norm, const at::Tensor& positions_T) const {
  at::Tensor x_THP = x.unflatten(1, {-1, config_.head_dim});
  if (norm != nullptr) {
    x_THP = ops::rms_norm(x_THP.flatten(0, 1), norm->value, norm_eps_).view_as(x_THP);
  }
  if (inverse_frequencies_ != nullptr) {
    x_THP = ops::rotary(
        x_THP, positions_T, *inverse_frequencies_, attention_factor_, config_.rotary.interleaved);
  }
  return x_THP;
}

at::Tensor Attention::forward(const at::Tensor& hidden_TD, const StepContext& context) const {
  const std::vector<at::Tensor> projected = gathered_linear(
      hidden_TD, context.layout.num_tokens, {&q_proj_, &k_proj_, &v_proj_}, tensor_ranks_);
  const at::Tensor q_THP = heads(projected[0], q_norm_, context.positions_T);
  const at::Tensor k_THP = heads(projected[1], k_norm_, context.positions_T);
  const at::Tensor v_THP = projected[2].unflatten(1, {-1, config_.head_dim});
  const at::Tensor out_THP = context.form == Form::kTrain
                                 ? attend(q_THP, k_THP, v_THP, context)
                                 : attend_cache(q_THP, k_THP, v_THP, context);
  return o_proj_(out_THP.flatten(1));
}

at::Tensor Attention::step(
    const at::Tensor& hidden_TD,
    const ops::LayerFrame& frame,
    const StepContext& context) const {
  const CacheView& cache = *context.cache;
  return ops::attention_step_(
      {.hidden_BD = hidden_TD,
       .frame = frame,
       .q_weight_QD = q_proj_.weight(),
       .q_bias_Q = q_proj_.bias_value(),
       .k_weight_KD = k_proj_.weight(),
       .k_bias_K = k_proj_.bias_value(),
       .v_weight_KD = v_proj_.weight(),
       .v_bias_K = v_proj_.bias_value(),
       .q_norm_weight_P = value_of(q_norm_),
       .k_norm_weight_P = value_of(k_norm_),
       .head_norm_eps = norm_eps_,
       .inverse_frequencies = inverse_frequencies_ == nullptr
                                  ? std::nullopt
                                  : std::make_optional(*inverse_frequencies_),
       .attention_factor = attention_factor_,
       .interleaved = config_.rotary.interleaved,
       .softmax_scale = scale_,
       .out_weight_DQ = o_proj_.weight(),
       .out_bias_D = o_proj_.bias_value()},
      {.k_pages = cache.at(name_ + ".key"),
       .v_pages = cache.at(name_ + ".value"),
       .page_table_BM = cache.page_table_BM,
       .positions_B = context.layout.first_positions_B});
}

at::Tensor Attention::attend(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const StepContext& context) const {
  if (context.shared != nullptr) {
    const parallel::Context& shared = *context.shared;
    if (shared.rules().strategy == parallel::ContextStrategy::kAllToAll) {
      return attend_by_heads(q_THP, k_THP, v_THP, shared);
    }
    return shared.rules().keys == parallel::KeyExchange::kGather
               ? gathered_attention(q_THP, k_THP, v_THP, scale_, shared)
               : ring_attention(q_THP, k_THP, v_THP, scale_, shared);
  }
  const at::Tensor& starts = context.layout.starts_B1;
  const ops::LongestSequences longest{context.layout.longest, context.layout.longest};
  return ops::attention(q_THP, k_THP, v_THP, starts, starts, scale_, longest).out_THP;
}

at::Tensor Attention::attend_by_heads(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const parallel::Context& shared) const {
  const std::int64_t ranks = shared.group().size();
  TORCH_CHECK(
      config_.num_heads % ranks == 0 &&
          (config_.num_kv_heads % ranks == 0 || ranks % config_.num_kv_heads == 0),
      "parallel.context = all_to_all wants model.attention.num_heads to be a multiple of cp, and "
      "one of num_kv_heads and cp to divide the other; a rank of parallel.tp has heads ",
      config_.num_heads,
      ", num_kv_heads ",
      config_.num_kv_heads,
      ", cp ",
      ranks);
  const std::int64_t queries = config_.num_heads / ranks;
  const std::int64_t keys = shared.own_groups(config_.num_kv_heads).second;
  const at::Tensor columns = shared.to_columns(at::cat(
      {shared.share_groups(q_THP), shared.share_groups(k_THP), shared.share_groups(v_THP)}, 2));
  const std::vector<at::Tensor> own =
      columns.unflatten(1, {-1, config_.head_dim}).split_with_sizes({queries, keys, keys}, 1);
  const SequenceLayout& stream = shared.stream();
  const at::Tensor out_THP = ops::attention(
                                 own[0],
                                 own[1],
                                 own[2],
                                 stream.starts_B1,
                                 stream.starts_B1,
                                 scale_,
                                 {stream.longest, stream.longest})
                                 .out_THP;
  return shared.to_rows(out_THP.flatten(1)).flatten(1).unflatten(1, {-1, config_.head_dim});
}

at::Tensor Attention::attend_cache(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    const StepContext& context) const {
  const SequenceLayout& layout = context.layout;
  const CacheView& cache = *context.cache;
  at::Tensor k_pages = cache.at(name_ + ".key");
  at::Tensor v_pages = cache.at(name_ + ".value");
  ops::paged_write_(
      k_pages,
      v_pages,
      k_THP,
      v_THP,
      cache.page_table_BM,
      layout.starts_B1,
      layout.first_positions_B);
  const at::Tensor kv_lengths_B =
      (layout.first_positions_B + at::diff(layout.starts_B1)).to(at::kInt);
  return ops::paged_attention(
      q_THP, k_pages, v_pages, cache.page_table_BM, layout.starts_B1, kv_lengths_B, scale_);
}

} // namespace baton::nn
