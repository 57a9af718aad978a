// SPDX-License-Identifier: Apache-2.0
// For tests: a run drawn from a number, of a mesh, a model and streams, against the same run on one
// rank.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/random.h"
#include "baton/model/hybrid_model.h"
#include "baton/model/model_share.h"
#include "baton/parallel/flat_parameters.h"
#include "baton/parallel/thread_ranks.h"
#include "baton/train/optimizer.h"
#include "baton/train/rank_tokens.h"
#include "baton/train/step_sums.h"

namespace baton::train {

/// fp64: the orders of additions differ, over segments and over ranks.
inline constexpr double kMeshTolerance = 1e-10;
/// The second takes the parameters that the ranks gave each other in the first.
inline constexpr std::int64_t kMeshSteps = 2;

/// Whole numbers, one after the other.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : key_(RandomKey(seed).with("mesh draw")) {}

  /// From `least` to `most`, both included.
  std::int64_t between(std::int64_t least, std::int64_t most) {
    return least + static_cast<std::int64_t>(
                       uniform_at(key_, next_++) * static_cast<double>(most - least + 1));
  }
  template <class T>
  T one_of(const std::vector<T>& values) {
    return values[static_cast<std::size_t>(
        between(0, static_cast<std::int64_t>(values.size()) - 1))];
  }
  bool yes() { return between(0, 1) == 1; }

 private:
  RandomKey key_;
  std::uint64_t next_ = 0;
};

/// All that a seed stands for.
struct MeshDraw {
  std::uint64_t seed = 0;
  parallel::MeshShape mesh;
  parallel::ContextRules rules;
  parallel::BucketConfig buckets;
  model::ModelConfig model;
  std::vector<Microbatch> microbatches; ///< of a step, on all ranks

  std::int64_t microbatches_per_rank() const {
    return static_cast<std::int64_t>(microbatches.size()) / mesh.along(parallel::Axis::kData);
  }
  std::string text() const;
};

inline std::string MeshDraw::text() const {
  std::string text = "seed " + std::to_string(seed) + ", " + mesh.text() + ", ";
  text += rules.strategy == parallel::ContextStrategy::kAllToAll ? "all-to-all"
          : rules.keys == parallel::KeyExchange::kRing           ? "ring"
                                                                 : "baton";
  text += ", " + model.pattern + ", convolution of " + std::to_string(model.mamba.conv_width);
  for (const Microbatch& microbatch : microbatches) {
    text += ", documents";
    for (const SequenceLayout::Sequence& document : microbatch.layout.sequences) {
      text += " " + std::to_string(document.length);
    }
  }
  return text;
}

/// Heads and groups; all_to_all asks that ranks can divide them, the baton asks nothing.
inline std::pair<std::int64_t, std::int64_t> draw_heads(Dice& dice, std::int64_t divisor) {
  std::vector<std::int64_t> groups;
  for (const std::int64_t count : {1, 2, 3, 4, 6}) {
    if (count % divisor == 0 || divisor % count == 0) {
      groups.push_back(count);
    }
  }
  const std::int64_t count = dice.one_of(groups);
  const std::int64_t step = std::max(count, divisor);
  return {step * dice.between(1, step > 3 ? 1 : 3), count};
}

/// A stack with all kinds of layers, of odd sizes.
inline model::ModelConfig draw_model(Dice& dice, std::int64_t divisor) {
  model::ModelConfig config;
  std::string layers = "M*-";
  while (layers.size() < 5 && dice.yes()) {
    layers += dice.one_of<char>({'M', 'M', '*', '-'});
  }
  while (!layers.empty()) {
    const auto i =
        static_cast<std::size_t>(dice.between(0, static_cast<std::int64_t>(layers.size()) - 1));
    config.pattern += layers[i];
    layers.erase(i, 1);
  }
  config.width = dice.between(9, 21);
  config.vocabulary = dice.between(11, 29);
  config.tied = dice.yes();
  config.dtype = "fp64";
  config.dropout = dice.yes() ? 0.1 : 0.0;
  config.start_deviation = 0.2;
  nn::Mamba2Config& mamba = config.mamba;
  std::tie(mamba.num_heads, mamba.num_groups) = draw_heads(dice, divisor);
  mamba.head_dim = dice.between(1, 7);
  mamba.state_size = dice.between(1, 9);
  mamba.conv_width = dice.between(1, 8);
  mamba.conv_bias = dice.yes();
  mamba.bias = dice.yes();
  mamba.norm = dice.yes();
  mamba.gate_first = dice.yes();
  mamba.d_per_channel = dice.yes();
  mamba.dt_max = dice.yes() ? 0.08 : mamba.dt_max;
  nn::AttentionConfig& attention = config.attention;
  std::tie(attention.num_heads, attention.num_kv_heads) = draw_heads(dice, divisor);
  attention.head_dim = dice.one_of<std::int64_t>({4, 6, 10});
  attention.bias = dice.yes();
  attention.query_key_norm = dice.yes();
  attention.rotary.enabled = dice.yes();
  attention.rotary.fraction = dice.yes() ? 1.0 : 0.7;
  attention.rotary.interleaved = dice.yes();
  config.mlp.hidden = dice.between(3, 31);
  config.mlp.activation = dice.one_of<std::string>({"squared_relu", "gelu", "swiglu"});
  return config;
}

/// Documents that end anywhere, empty ones among them, some of which began before the stream.
inline SequenceLayout draw_layout(Dice& dice, int cp) {
  // Segments that are empty, those that are shorter than the convolution, and long ones.
  const std::int64_t longest = dice.one_of<std::int64_t>({2 * cp, 14 * cp, 60 * cp});
  const std::int64_t tokens = dice.between(1, longest);
  std::vector<SequenceLayout::Sequence> documents;
  std::int64_t left = tokens;
  while (left > 0) {
    // One that takes all, one that may be empty, one that ends at a cut.
    const std::int64_t length = dice.one_of<std::int64_t>(
        {left,
         dice.between(0, left),
         dice.between(0, std::min<std::int64_t>(left, 5)),
         std::min(left, tokens / (2 * cp))});
    documents.push_back({.length = length, .first_position = dice.yes() ? dice.between(1, 50) : 0});
    left -= length;
  }
  if (dice.yes()) {
    documents.push_back({});
  }
  return make_layout(documents);
}

inline Microbatch draw_microbatch(Dice& dice, int cp, std::int64_t vocabulary) {
  Microbatch microbatch;
  microbatch.index = dice.between(0, 1000);
  microbatch.layout = draw_layout(dice, cp);
  const bool masked = dice.yes();
  std::vector<std::int64_t> tokens;
  std::vector<std::int64_t> labels;
  std::vector<float> mask;
  for (const SequenceLayout::Sequence& document : microbatch.layout.sequences) {
    for (std::int64_t i = 0; i < document.length; ++i) {
      tokens.push_back(dice.between(0, vocabulary - 1));
      labels.push_back(i + 1 < document.length ? dice.between(0, vocabulary - 1) : -100);
      mask.push_back(masked && dice.between(0, 3) == 0 ? 0.0F : 1.0F);
      microbatch.targets += labels.back() >= 0 && mask.back() > 0.0F ? 1 : 0;
    }
  }
  microbatch.tokens_T = at::tensor(tokens, at::kLong);
  microbatch.labels_T = at::tensor(labels, at::kLong);
  if (masked) {
    microbatch.mask_T = at::tensor(mask, at::kFloat);
  }
  return microbatch;
}

inline MeshDraw draw_mesh(std::uint64_t seed) {
  Dice dice(seed);
  MeshDraw draw;
  draw.seed = seed;
  const auto [dp, cp] = dice.one_of<std::pair<int, int>>(
      {{1, 2}, {1, 3}, {1, 4}, {1, 5}, {1, 6}, {2, 1}, {2, 2}, {2, 2}, {2, 3}, {3, 1}, {3, 2}});
  draw.mesh = {{1, cp, dp, 1}};
  draw.rules = dice.one_of<parallel::ContextRules>(
      {{},
       {parallel::ContextStrategy::kBaton, parallel::KeyExchange::kRing},
       {parallel::ContextStrategy::kAllToAll}});
  // Buckets of one parameter, of several and of all.
  draw.buckets.bucket_bytes = dice.one_of<std::int64_t>({1, 4096, 1 << 25});
  draw.buckets.same_sums = dp * cp != 3 && dp * cp != 5 && dp * cp != 6 && dice.yes();
  const bool all_to_all = draw.rules.strategy == parallel::ContextStrategy::kAllToAll;
  draw.model = draw_model(dice, all_to_all ? cp : 1);
  const std::int64_t count = dp * dice.between(1, 2);
  while (static_cast<std::int64_t>(draw.microbatches.size()) < count) {
    draw.microbatches.push_back(draw_microbatch(dice, cp, draw.model.vocabulary));
  }
  return draw;
}

/// What one step finds.
struct MeshStep {
  std::vector<at::Tensor> hidden_TD; ///< of each microbatch
  double loss = 0.0;                 ///< mean of all labels that count
  std::vector<at::Tensor> gradients; ///< one rank: of each parameter; several: of each owned slice
  double grad_norm = 0.0;
  std::vector<at::Tensor> parameters; ///< after the update
};

/// A small epsilon would make signs of gradients that are zero but for rounding.
inline OptimizerConfig mesh_optimizer() {
  return {.eps = 1e-3, .weight_decay = 0.1, .clip_norm = 0.5};
}

/// Forward and backward of one microbatch: its hidden states, and its part of the step's loss.
inline std::pair<at::Tensor, at::Tensor>
pass_over(const MeshDraw& draw, const model::HybridModel& model, const RankTokens& tokens) {
  std::int64_t targets = 0;
  for (const Microbatch& each : draw.microbatches) {
    targets += each.targets;
  }
  const Microbatch& own = tokens.microbatch;
  nn::StepContext context = tokens.context();
  context.dropout = true;
  context.random_key = RandomKey(11).with(static_cast<std::uint64_t>(own.index));
  const at::Tensor hidden_TD = model.hidden(own.tokens_T, context);
  const at::Tensor loss = model.loss(hidden_TD, own.labels_T, own.mask_T).loss_sum /
                          static_cast<double>(std::max<std::int64_t>(1, targets));
  loss.backward();
  return {hidden_TD.detach(), loss.detach()};
}

inline std::vector<at::Tensor> values_of(const nn::ParameterStore& parameters) {
  std::vector<at::Tensor> values;
  for (const nn::Parameter& parameter : parameters.parameters()) {
    values.push_back(parameter.value.detach().clone());
  }
  return values;
}

/// One rank, without anything of parallel/: autograd adds the gradients up.
inline std::vector<MeshStep> train_alone(const MeshDraw& draw) {
  model::HybridModel model(draw.model);
  nn::ParameterStore& parameters = model.parameters();
  parameters.initialize(3, at::kDouble, at::kCPU);
  AdamW optimizer(parameters, mesh_optimizer());
  std::vector<MeshStep> steps(kMeshSteps);
  for (MeshStep& step : steps) {
    clear_gradients(parameters);
    for (const Microbatch& microbatch : draw.microbatches) {
      const auto [hidden_TD, loss] = pass_over(draw, model, {microbatch, nullptr});
      step.hidden_TD.push_back(hidden_TD);
      step.loss += loss.item<double>();
    }
    for (const at::Tensor& gradient : gradients(parameters)) {
      step.gradients.push_back(gradient.clone());
    }
    step.grad_norm = optimizer.step({.lr = 0.01}, gradients(parameters)).grad_norm;
    step.parameters = values_of(parameters);
  }
  return steps;
}

/// Compares with what one rank found, and tells where.
class MeshComparison {
 public:
  MeshComparison(const MeshDraw& draw, const parallel::Mesh& mesh)
      : what_(draw.text() + "; rank " + std::to_string(mesh.rank())) {}

  void expect(const at::Tensor& found, const at::Tensor& wanted, const std::string& name) const {
    ASSERT_EQ(found.sizes(), wanted.sizes()) << what_ << ": " << name;
    if (found.numel() > 0) {
      const double off = (found - wanted).abs().max().item<double>();
      EXPECT_LE(off, kMeshTolerance * (1.0 + wanted.abs().max().item<double>()))
          << what_ << ": " << name;
    }
  }
  void expect(double found, double wanted, const std::string& name) const {
    EXPECT_NEAR(found, wanted, kMeshTolerance * (1.0 + std::abs(wanted))) << what_ << ": " << name;
  }

 private:
  std::string what_;
};

/// The same steps on one of several ranks, as a trainer does them.
class MeshRank {
 public:
  MeshRank(const MeshDraw& draw, const parallel::Mesh& mesh)
      : draw_(draw),
        mesh_(mesh),
        compare_(draw, mesh),
        model_(draw.model),
        gradients_(start_values(), names(), mesh, draw.buckets),
        flat_(tensors(), gradients_.plan(), mesh.replicas()),
        optimizer_(
            model_.parameters(),
            mesh_optimizer(),
            {.slices = gradients_.plan().owned_by(mesh.replicas().rank()),
             .num_buckets = gradients_.plan().buckets().size(),
             .replicas = mesh.replicas()}),
        share_(model_),
        reduction_(gradients_, share_, mesh, at::kCPU) {}

  void expect_step(const MeshStep& wanted) {
    const std::int64_t count = draw_.microbatches_per_rank();
    const std::int64_t first = count * mesh_.coordinate(parallel::Axis::kData);
    std::vector<at::Tensor> losses;
    gradients_.begin_step(count);
    for (std::int64_t i = first; i < first + count; ++i) {
      const auto place = static_cast<std::size_t>(i);
      const RankTokens tokens =
          tokens_of_rank(draw_.microbatches[place], mesh_, draw_.rules, at::kCPU);
      const auto [hidden_TD, loss] = pass_over(draw_, model_, tokens);
      losses.push_back(loss);
      const at::Tensor& whole_TD = wanted.hidden_TD[place];
      compare_.expect(
          hidden_TD, tokens.shared ? tokens.shared->own_rows(whole_TD) : whole_TD, "hidden states");
    }
    gradients_.finish();
    update(
        reduction_.sum(
            {.losses = losses,
             .first = first,
             .microbatches = static_cast<std::int64_t>(draw_.microbatches.size())}),
        wanted);
  }

 private:
  void update(const StepSums& sums, const MeshStep& wanted) {
    compare_.expect(sums.loss, wanted.loss, "loss");
    const std::vector<std::string> name = names();
    std::vector<at::Tensor> owned;
    for (const parallel::BucketSlice& slice : optimizer_.owned()) {
      owned.push_back(gradients_.gradient(slice));
      const at::Tensor whole = wanted.gradients[slice.parameter].reshape({-1});
      compare_.expect(
          owned.back().reshape({-1}),
          whole.narrow(0, slice.begin, slice.length),
          "gradient of " + name[slice.parameter]);
    }
    const StepReport report = optimizer_.step(
        {.lr = 0.01}, owned, reduction_.checked_norm(sums), [this](std::size_t bucket) {
          flat_.start_gather(bucket);
        });
    flat_.wait();
    compare_.expect(report.grad_norm, wanted.grad_norm, "norm of the gradients");
    const std::vector<at::Tensor> values = values_of(model_.parameters());
    for (std::size_t i = 0; i < values.size(); ++i) {
      compare_.expect(values[i], wanted.parameters[i], name[i] + " after the update");
    }
  }

  std::vector<at::Tensor> start_values() {
    model_.parameters().initialize(3, at::kDouble, at::kCPU);
    return tensors();
  }
  std::vector<at::Tensor> tensors() const {
    std::vector<at::Tensor> tensors;
    for (const nn::Parameter& parameter : model_.parameters().parameters()) {
      tensors.push_back(parameter.value);
    }
    return tensors;
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const nn::Parameter& parameter : model_.parameters().parameters()) {
      names.push_back(parameter.spec.name);
    }
    return names;
  }

  const MeshDraw& draw_;
  const parallel::Mesh& mesh_;
  MeshComparison compare_;
  model::HybridModel model_;
  parallel::GradBuckets gradients_;
  parallel::FlatParameters flat_;
  AdamW optimizer_;
  model::ModelShare share_;
  StepReduction reduction_;
};

/// Hidden states, loss, every gradient and every parameter of all steps equal one rank's.
inline void expect_equals_one_rank(std::uint64_t seed) {
  const MeshDraw draw = draw_mesh(seed);
  const std::vector<MeshStep> wanted = train_alone(draw);
  parallel::run_ranks(draw.mesh, [&](const parallel::Mesh& mesh) {
    MeshRank rank(draw, mesh);
    for (const MeshStep& step : wanted) {
      rank.expect_step(step);
    }
  });
}

} // namespace baton::train
