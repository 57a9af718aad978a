// SPDX-License-Identifier: Apache-2.0
// Sizes and options of the layers, as a recipe's `model` section gives them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include <c10/core/ScalarType.h>

#include "baton/base/config.h"

namespace baton::nn {

/// Sizes of a mixer's frame, whatever its core.
struct MixerFrameConfig {
  std::int64_t inner = 0;      ///< channels of z and of the core's output
  std::int64_t group_size = 0; ///< channels over which the gated norm takes its mean square
  bool norm = true;            ///< false: y * silu(z) without a norm
  bool gate_first = true;      ///< gate before the norm (Mamba-2) or after it
  bool bias = false;           ///< on in_proj and out_proj
};

struct Mamba2Config {
  std::int64_t num_heads = 16;
  std::int64_t head_dim = 64;
  std::int64_t num_groups = 1;
  std::int64_t state_size = 128;
  std::int64_t conv_width = 4;
  bool conv_bias = true;
  bool bias = false;
  bool norm = true;
  std::int64_t norm_groups = 0;
  bool gate_first = true;
  bool d_per_channel = false;
  double dt_min = 0.0;
  double dt_max = std::numeric_limits<double>::infinity();
  double dt_start_min = 1e-3;
  double dt_start_max = 0.1;
  double dt_start_floor = 1e-4;
  double a_start_min = 1.0;
  double a_start_max = 16.0;

  std::int64_t inner() const { return num_heads * head_dim; }
  std::int64_t norm_group_count() const { return norm_groups == 0 ? num_groups : norm_groups; }
  MixerFrameConfig frame() const {
    return {
        .inner = inner(),
        .group_size = inner() / norm_group_count(),
        .norm = norm,
        .gate_first = gate_first,
        .bias = bias};
  }

  template <class V>
  void visit(V& v) {
    v.field("num_heads", num_heads, "heads of the scan", Range{1, 1 << 20});
    v.field("head_dim", head_dim, "channels a head", Range{1, 1024});
    v.field("num_groups", num_groups, "groups of heads that share B and C", Range{1, 1 << 20});
    v.field("state_size", state_size, "state values a channel (N)", Range{1, 4096});
    v.field("conv_width", conv_width, "taps of the causal convolution (K)", Range{1, 8});
    v.field("conv_bias", conv_bias, "bias in the convolution");
    v.field("bias", bias, "biases in in_proj and out_proj");
    v.field("norm", norm, "gated norm on the scan's output; false gates without a norm");
    v.field(
        "norm_groups",
        norm_groups,
        "groups of channels with a mean square of their own; 0 takes num_groups",
        Range{0, 1 << 20});
    v.field(
        "gate_first", gate_first, "gate before the norm, as Mamba-2 does; false gates after it");
    v.field("d_per_channel", d_per_channel, "D per channel instead of per head");
    v.field("dt_min", dt_min, "lower limit of dt after softplus", Range{0.0, 1e9});
    v.field("dt_max", dt_max, "upper limit of dt after softplus", Range::at_least(0.0));
    v.field("dt_start_min", dt_start_min, "smallest dt at the start", Range{1e-9, 1e3});
    v.field("dt_start_max", dt_start_max, "largest dt at the start", Range{1e-9, 1e3});
    v.field("dt_start_floor", dt_start_floor, "dt at the start is raised to this", Range{0.0, 1e3});
    v.field("a_start_min", a_start_min, "smallest -A at the start", Range{1e-9, 1e6});
    v.field("a_start_max", a_start_max, "largest -A at the start", Range{1e-9, 1e6});
  }
};

struct RotaryOptions {
  bool enabled = true;
  double base = 10000.0;
  double fraction = 1.0;
  std::string scaling = "none";
  double factor = 1.0;
  std::int64_t original_length = 4096;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 0.0;
  double mscale_all_dim = 0.0;
  double attention_factor = 0.0;
  bool interleaved = false;

  template <class V>
  void visit(V& v) {
    v.field("enabled", enabled, "turn queries and keys by their positions");
    v.field("base", base, "base of the frequencies", Range{1.0, 1e12});
    v.field("fraction", fraction, "share of a head's channels that turns", Range{0.0, 1.0});
    v.field(
        "scaling", scaling, "how longer contexts are reached", Choice{"none", "linear", "yarn"});
    v.field("factor", factor, "context extension of the scaling", Range{1.0, 1e6});
    v.field("original_length", original_length, "context before yarn scaling", Range{1, 1 << 30});
    v.field(
        "beta_fast",
        beta_fast,
        "yarn keeps pairs of more turns over the original context",
        Range::above(0.0));
    v.field("beta_slow", beta_slow, "yarn stretches pairs of fewer turns fully", Range::above(0.0));
    v.field("mscale", mscale, "yarn's attention scale; 0 takes its formula", Range{0.0, 1e3});
    v.field(
        "mscale_all_dim",
        mscale_all_dim,
        "divides yarn's attention scale; 0 with mscale",
        Range{0.0, 1e3});
    v.field(
        "attention_factor",
        attention_factor,
        "yarn's factor on cosine and sine; 0 takes its formula",
        Range{0.0, 1e3});
    v.field("interleaved", interleaved, "pair neighbouring channels instead of halves");
  }
};

struct AttentionConfig {
  std::int64_t num_heads = 8;
  std::int64_t num_kv_heads = 8;
  std::int64_t head_dim = 64;
  double scale = 0.0;
  bool bias = false;
  bool query_key_norm = false;
  std::int64_t sliding_window = 0;
  double dropout = 0.0;
  RotaryOptions rotary;

  /// `scale` with its default spelled out.
  double score_scale() const {
    return scale > 0.0 ? scale : 1.0 / std::sqrt(static_cast<double>(head_dim));
  }

  template <class V>
  void visit(V& v) {
    v.field("num_heads", num_heads, "query heads", Range{1, 1 << 20});
    v.field("num_kv_heads", num_kv_heads, "key and value heads", Range{1, 1 << 20});
    v.field("head_dim", head_dim, "channels a head; free of width / heads", Range{1, 1024});
    v.field("scale", scale, "factor on the scores; 0 is 1 / sqrt(head_dim)", Range{0.0, 1e6});
    v.field("bias", bias, "biases in the projections");
    v.field("query_key_norm", query_key_norm, "rms_norm of every query and key head");
    v.field(
        "sliding_window",
        sliding_window,
        "must be 0: windows are not supported",
        Range{0, 1 << 30});
    v.field(
        "dropout",
        dropout,
        "must be 0: dropout on probabilities is not supported",
        Range{0.0, 1.0});
    v.group("rotary", rotary);
  }
};

struct MlpConfig {
  std::int64_t hidden = 2048;
  std::string activation = "squared_relu";
  bool bias = false;

  template <class V>
  void visit(V& v) {
    v.field("hidden", hidden, "width between the two products", Range{1, 1 << 24});
    v.field("activation", activation, "nonlinearity", Choice{"squared_relu", "gelu", "swiglu"});
    v.field("bias", bias, "biases in the products");
  }
};

/// What all layers of a model share.
struct LayerConfig {
  std::int64_t width = 512;
  at::ScalarType dtype = at::kFloat; ///< of parameters and activations
  double norm_eps = 1e-5;
  double dropout = 0.0;
  double residual_multiplier = 1.0; ///< on what a layer adds to the hidden states
  double start_deviation = 0.02;
  double output_start_scale = 1.0; ///< factor on the deviation of projections into the residual
  Mamba2Config mamba;
  AttentionConfig attention;
  MlpConfig mlp;
};

} // namespace baton::nn
