// SPDX-License-Identifier: Apache-2.0
// A model's sizes and options: the `model` section of a recipe.
#pragma once

#include <cstdint>
#include <string>

#include <c10/core/Device.h>

#include "baton/base/config.h"
#include "baton/nn/config.h"

namespace baton::model {

struct ModelConfig {
  std::string pattern;
  std::int64_t width = 512;
  std::int64_t vocabulary = 0;
  bool tied = false;
  std::string dtype = "auto";
  double norm_eps = 1e-5;
  double dropout = 0.0;
  bool residual_fp32 = false;
  double embedding_multiplier = 1.0;
  double residual_multiplier = 1.0;
  double logits_divisor = 1.0;
  double start_deviation = 0.02;
  std::string output_start = "1/sqrt(2*layers)";
  nn::Mamba2Config mamba;
  nn::AttentionConfig attention;
  nn::MlpConfig mlp;

  template <class V>
  void visit(V& v) {
    v.field("pattern", pattern, "layers in order: M Mamba-2, * attention, - MLP");
    v.field("width", width, "channels of the hidden states (D)", Range{1, 1 << 20});
    v.field("vocabulary", vocabulary, "token ids; 0 takes the tokenizer's", Range{0, 1 << 30});
    v.field("tied", tied, "the head uses the embedding's weights");
    v.field(
        "dtype",
        dtype,
        "of parameters and activations; auto is bf16 on a GPU and fp32 on the CPU",
        Choice{"auto", "fp32", "bf16", "fp64"});
    v.field("norm_eps", norm_eps, "added to the mean square in norms", Range{0.0, 1.0});
    v.field("dropout", dropout, "on what each layer adds to the hidden states", Range{0.0, 0.99});
    v.field("residual_fp32", residual_fp32, "keep the residual stream in fp32");
    v.field("embedding_multiplier", embedding_multiplier, "on the embeddings", Range{-1e6, 1e6});
    v.field(
        "residual_multiplier",
        residual_multiplier,
        "on what each layer adds to the hidden states",
        Range{-1e6, 1e6});
    v.field("logits_divisor", logits_divisor, "divides the logits", Range{1e-6, 1e6});
    v.field("start_deviation", start_deviation, "of matrices at the start", Range{0.0, 10.0});
    v.field(
        "output_start",
        output_start,
        "factor on the deviation of projections into the residual stream",
        Choice{"1", "1/sqrt(layers)", "1/sqrt(2*layers)"});
    v.group("mamba", mamba);
    v.group("attention", attention);
    v.group("mlp", mlp);
  }

  /// Settles a dtype of auto. Throws `Error` for one that has no kernels on the device.
  void settle_dtype(c10::Device device);

  /// `dtype` as libtorch names it; auto counts as fp32 until it is settled.
  at::ScalarType scalar_type() const;

  /// What the layers of a stack of `num_layers` share.
  nn::LayerConfig layer_config(std::int64_t num_layers) const;
};

} // namespace baton::model
