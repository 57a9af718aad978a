// SPDX-License-Identifier: Apache-2.0
// A model whose layers a pipeline of ranks shares against the same model on one rank.
#include <map>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/random.h"
#include "baton/model/example_models.h"
#include "baton/model/pipeline_step.h"
#include "baton/nn/tensor_gradients.h"
#include "baton/parallel/context.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::model {
namespace {

using parallel::Axis;
using parallel::Context;
using parallel::ContextRules;
using parallel::ContextStrategy;
using parallel::Mesh;

// Stages do the same arithmetic wherever they are; microbatches of a stage, the matrix of tied ends
// and ranks that share a stream add up in another order.
constexpr double kTolerance = 1e-10;

ModelConfig tiny_config(const std::string& pattern) {
  ModelConfig config = example_config(pattern, 4, 2);
  config.embedding_multiplier = 1.5;
  return config;
}

/// A microbatch of packed documents, the same on all ranks.
struct Batch {
  Batch(std::uint64_t number, const std::vector<std::int64_t>& lengths)
      : stream(make_layout_from_lengths(lengths)),
        tokens(random_ids(100 + number, stream.num_tokens, 23)),
        labels(random_ids(200 + number, stream.num_tokens, 23)),
        mask(
            uniform(RandomKey(300 + number), {stream.num_tokens}, 0.0, 2.0).floor().to(at::kFloat)),
        key(RandomKey(7).with(number)) {}

  SequenceLayout stream;
  at::Tensor tokens;
  at::Tensor labels;
  at::Tensor mask;
  RandomKey key;

  PipelineMicrobatch microbatch(const Context* shared) const {
    const SequenceLayout& layout = shared == nullptr ? stream : shared->layout();
    const auto own = [&](const at::Tensor& of_stream) {
      return shared == nullptr ? of_stream : shared->own_rows(of_stream);
    };
    return {
        .tokens_T = own(tokens),
        .labels_T = own(labels),
        .mask_T = own(mask),
        .context = {
            .layout = layout,
            .positions_T = layout.positions(),
            .dropout = true,
            .random_key = key,
            .shared = shared}};
  }
};

/// Lengths differ between microbatches; one has no tokens.
std::vector<Batch> make_batches(int count) {
  const std::vector<std::vector<std::int64_t>> lengths{
      {9, 1, 0, 14}, {31}, {}, {2, 2, 17, 3}, {1}, {40, 5}, {12, 12}, {6, 7, 8}};
  std::vector<Batch> batches;
  for (int i = 0; i < count; ++i) {
    batches.emplace_back(i, lengths[static_cast<std::size_t>(i) % lengths.size()]);
  }
  return batches;
}

struct Found {
  at::Tensor loss;
  std::map<std::string, at::Tensor> values;
  std::map<std::string, at::Tensor> gradients;
  std::map<std::string, std::vector<nn::ParameterPiece>> pieces; ///< what these are of
};

std::map<std::string, at::Tensor> gradients_of(const HybridModel& model) {
  std::map<std::string, at::Tensor> gradients;
  for (const nn::Parameter& parameter : model.parameters().parameters()) {
    gradients[parameter.spec.name] = parameter.value.grad();
  }
  return gradients;
}

constexpr double kScale = 0.01;

/// One rank, without any pipeline.
Found work_alone(const ModelConfig& config, const std::vector<Batch>& batches) {
  HybridModel model(config);
  model.parameters().initialize(3, at::kDouble, at::kCPU);
  Found found{.loss = at::zeros({}, at::kDouble), .values = {}, .gradients = {}, .pieces = {}};
  for (const Batch& batch : batches) {
    const PipelineMicrobatch each = batch.microbatch(nullptr);
    const at::Tensor loss =
        model.loss(model.hidden(each.tokens_T, each.context), each.labels_T, each.mask_T).loss_sum *
        kScale;
    loss.backward();
    found.loss += loss.detach();
  }
  found.values = nn::parameter_tensors(model.parameters());
  found.gradients = gradients_of(model);
  return found;
}

void expect_close(const at::Tensor& found, const at::Tensor& wanted, const std::string& what) {
  ASSERT_EQ(found.defined(), wanted.defined()) << what;
  if (!wanted.defined()) {
    return;
  }
  const double scale = 1.0 + wanted.abs().max().item<double>();
  EXPECT_LE((found - wanted).abs().max().item<double>(), kTolerance * scale) << what;
}

struct Trial {
  std::string pattern;
  int ranks = 2;
  int virtual_stages = 1;
  int microbatches = 4;
  bool tied = false;
  int cp = 1;
  ContextRules rules{};
  int tp = 1;

  std::string text() const {
    return pattern + ", pp " + std::to_string(ranks) + " x " + std::to_string(virtual_stages) +
           ", cp " + std::to_string(cp) + ", tp " + std::to_string(tp) + ", " +
           std::to_string(microbatches) + " microbatches" + (tied ? ", tied" : "");
  }
};

/// What this rank of the mesh finds: gradients of its stages, summed over cp and tp, and the loss.
Found work_together(const ModelConfig& config, const Trial& trial, const Mesh& mesh) {
  const std::vector<Batch> batches = make_batches(trial.microbatches);
  std::vector<c10::intrusive_ptr<Context>> shared;
  std::vector<PipelineMicrobatch> microbatches;
  for (const Batch& batch : batches) {
    if (trial.cp > 1) {
      shared.push_back(c10::make_intrusive<Context>(
          batch.stream, mesh.along(Axis::kContext), trial.rules, at::kCPU));
    }
    microbatches.push_back(batch.microbatch(trial.cp > 1 ? shared.back().get() : nullptr));
  }
  const int rank = mesh.coordinate(Axis::kPipeline);
  HybridModel model(
      config,
      mesh.along(Axis::kTensor),
      {.ranks = trial.ranks, .virtual_stages = trial.virtual_stages, .rank = rank});
  model.parameters().initialize(3, at::kDouble, at::kCPU);
  const parallel::PipelineSchedule schedule =
      parallel::make_pipeline_schedule({trial.ranks, trial.virtual_stages, trial.microbatches});
  parallel::LinkTransport transport(mesh.pipeline_links());
  PipelineStep step(model, std::move(microbatches), at::scalar_tensor(kScale, at::kDouble));
  parallel::PipelineRunner(schedule, rank, transport).run(step.works());
  const parallel::PipelineEstimate estimate =
      parallel::estimate_pipeline(schedule, parallel::PipelineCosts::equal(schedule.shape));
  EXPECT_EQ(static_cast<int>(step.most_alive()), estimate.alive[static_cast<std::size_t>(rank)]);
  nn::sum_tensor_gradients(model.parameters());
  if (const nn::Parameter* matrix = model.shared_matrix()) {
    sum_shared_gradient_(model, matrix->value.grad(), mesh.pipeline_links());
  }
  Found found{
      .loss = at::stack(step.losses()).sum().view(1) / trial.tp, // all ranks of tp have it
      .values = nn::parameter_tensors(model.parameters()),
      .gradients = gradients_of(model),
      .pieces = {}};
  for (const nn::Parameter& parameter : model.parameters().parameters()) {
    found.pieces[parameter.spec.name] = model.parameters().pieces_of(parameter.spec);
  }
  mesh.all().all_reduce_(found.loss);
  for (auto& [name, gradient] : found.gradients) {
    gradient = gradient.contiguous();
    mesh.along(Axis::kContext).all_reduce_(gradient);
  }
  return found;
}

void expect_equals_one_rank(const Trial& trial) {
  ModelConfig config = tiny_config(trial.pattern);
  config.tied = trial.tied;
  const Found wanted = work_alone(config, make_batches(trial.microbatches));
  std::vector<std::map<std::string, at::Tensor>> held(
      static_cast<std::size_t>(trial.ranks * trial.cp * trial.tp));
  parallel::run_ranks({{trial.tp, trial.cp, 1, trial.ranks}}, [&](const Mesh& mesh) {
    const Found found = work_together(config, trial, mesh);
    const std::string what = trial.text() + ", rank " + std::to_string(mesh.rank());
    expect_close(found.loss, wanted.loss.view(1), what + ": loss");
    for (const auto& [name, gradient] : found.gradients) {
      for (const nn::ParameterPiece& piece : found.pieces.at(name)) {
        EXPECT_TRUE(
            at::equal(piece.of(found.values.at(name)), piece.of_whole(wanted.values.at(name))))
            << what << name;
        expect_close(
            piece.of(gradient), piece.of_whole(wanted.gradients.at(name)), what + ": " + name);
      }
    }
    held[static_cast<std::size_t>(mesh.rank())] = found.gradients;
  });
  // Every parameter is on one rank of the pipeline, but for the matrix of tied ends, which has
  // equal bits on two.
  std::map<std::string, int> holders;
  for (std::size_t rank = 0; rank < held.size();
       rank += static_cast<std::size_t>(trial.cp * trial.tp)) {
    for (const auto& [name, gradient] : held[rank]) {
      ++holders[name];
      if (holders[name] == 2) {
        EXPECT_EQ(name, "embedding.weight") << trial.text();
        EXPECT_TRUE(at::equal(gradient, held.front().at(name))) << trial.text();
      }
    }
  }
  EXPECT_EQ(holders.size(), wanted.gradients.size()) << trial.text();
  if (trial.tied && trial.ranks > 1) {
    EXPECT_EQ(holders["embedding.weight"], 2) << trial.text();
  }
}

TEST(Pipeline, EqualsOneRank) {
  for (const bool tied : {false, true}) {
    expect_equals_one_rank({.pattern = "M*-|M-M", .ranks = 2, .microbatches = 5, .tied = tied});
    expect_equals_one_rank({.pattern = "M*|-M|*-M", .ranks = 3, .microbatches = 4, .tied = tied});
    expect_equals_one_rank({.pattern = "M*|-M|*M|-M", .ranks = 4, .microbatches = 8, .tied = tied});
  }
}

TEST(Pipeline, EqualsOneRankInterleaved) {
  for (const bool tied : {false, true}) {
    expect_equals_one_rank(
        {.pattern = "M*|-M|*|-M",
         .ranks = 2,
         .virtual_stages = 2,
         .microbatches = 6,
         .tied = tied});
    expect_equals_one_rank(
        {.pattern = "M|*-|M|M|*|-M",
         .ranks = 3,
         .virtual_stages = 2,
         .microbatches = 6,
         .tied = tied});
    expect_equals_one_rank(
        {.pattern = "M|*|-|M|M|*|-|M",
         .ranks = 4,
         .virtual_stages = 2,
         .microbatches = 8,
         .tied = tied});
  }
  expect_equals_one_rank(
      {.pattern = "M*|-|M|M", .ranks = 1, .virtual_stages = 4, .microbatches = 3});
}

// First, last, middle, all but one.
TEST(Pipeline, StagesMayHaveNoLayers) {
  for (const char* pattern : {"|M*-", "M*-|", "|"}) {
    expect_equals_one_rank({.pattern = pattern, .ranks = 2, .microbatches = 3, .tied = true});
  }
  expect_equals_one_rank({.pattern = "M*||-M", .ranks = 3, .microbatches = 4});
  expect_equals_one_rank(
      {.pattern = "|M*|||-|M", .ranks = 3, .virtual_stages = 2, .microbatches = 3, .tied = true});
}

TEST(Pipeline, FewerMicrobatchesThanStages) {
  expect_equals_one_rank({.pattern = "M|*|-|M", .ranks = 4, .microbatches = 1});
  expect_equals_one_rank({.pattern = "M|*|-|M", .ranks = 4, .microbatches = 2, .tied = true});
}

TEST(Pipeline, LayersWithoutPipesAreSharedEvenly) {
  expect_equals_one_rank({.pattern = "M*-M", .ranks = 2, .microbatches = 2});
}

TEST(Pipeline, OverAStreamThatRanksShare) {
  const ContextRules all_to_all{ContextStrategy::kAllToAll};
  for (const ContextRules& rules : {ContextRules{}, all_to_all}) {
    expect_equals_one_rank(
        {.pattern = "M*|-M", .ranks = 2, .microbatches = 3, .tied = true, .cp = 2, .rules = rules});
  }
  expect_equals_one_rank(
      {.pattern = "M|*|-|M", .ranks = 2, .virtual_stages = 2, .microbatches = 4, .cp = 2});
}

TEST(Pipeline, OverMatricesThatRanksShare) {
  expect_equals_one_rank(
      {.pattern = "M*|-M", .ranks = 2, .microbatches = 5, .tied = true, .tp = 2});
  expect_equals_one_rank(
      {.pattern = "M|*|-|M", .ranks = 2, .virtual_stages = 2, .microbatches = 4, .tp = 2});
  expect_equals_one_rank(
      {.pattern = "M*|-M", .ranks = 2, .microbatches = 3, .tied = true, .cp = 2, .tp = 2});
}

TEST(Pipeline, EvaluatesAsOneRankDoes) {
  std::vector<PipelineMicrobatch> microbatches;
  const std::vector<Batch> batches = make_batches(5);
  for (const Batch& batch : batches) {
    microbatches.push_back(batch.microbatch(nullptr));
  }
  const ModelConfig config = tiny_config("M*|-|M|*");
  HybridModel whole(config);
  whole.parameters().initialize(3, at::kDouble, at::kCPU);
  parallel::run_ranks({{1, 1, 1, 2}}, [&](const Mesh& mesh) {
    const int rank = mesh.coordinate(Axis::kPipeline);
    HybridModel model(config, {}, {.ranks = 2, .virtual_stages = 2, .rank = rank});
    model.parameters().initialize(3, at::kDouble, at::kCPU);
    int evaluated = 0;
    const auto compare = [&](int microbatch, const nn::LossOutput& output) {
      const PipelineMicrobatch& each = microbatches[static_cast<std::size_t>(microbatch)];
      const at::Tensor hidden_TD = whole.hidden(each.tokens_T, each.context);
      const nn::LossOutput wanted = whole.loss(hidden_TD, each.labels_T, each.mask_T);
      EXPECT_FALSE(output.loss_sum.requires_grad());
      EXPECT_TRUE(at::equal(output.nll_T, wanted.nll_T));
      ++evaluated;
    };
    const parallel::PipelineSchedule schedule = parallel::make_forward_schedule({2, 2, 5});
    parallel::LinkTransport transport(mesh.pipeline_links());
    parallel::PipelineRunner(schedule, rank, transport)
        .run(evaluation_works(model, microbatches, compare));
    EXPECT_EQ(evaluated, rank == 1 ? 5 : 0);
  });
}

TEST(Pipeline, RefusesToRunAPartAsAWhole) {
  HybridModel model(tiny_config("M|*"), {}, {.ranks = 2, .virtual_stages = 1, .rank = 0});
  model.parameters().initialize(3, at::kDouble, at::kCPU);
  const Batch batch(0, {4});
  const PipelineMicrobatch each = batch.microbatch(nullptr);
  EXPECT_THROW(model.hidden(each.tokens_T, each.context), c10::Error);
  EXPECT_THROW(model.logits(at::zeros({4, 20}, at::kDouble)), c10::Error);
}

} // namespace
} // namespace baton::model
