// SPDX-License-Identifier: Apache-2.0
// Predictions for meshes: counts against the model, and what must hold between meshes.
#include "baton/train/plan.h"

#include <algorithm>
#include <string>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/model/hybrid_model.h"
#include "baton/model/pattern.h"
#include "baton/model/pipeline_cut.h"
#include "baton/parallel/pipeline.h"
#include "baton/train/plan_search.h"
#include "baton/train/step_model.h"

namespace baton::train {
namespace {

using parallel::Axis;

model::ModelConfig config_2b() {
  model::ModelConfig config;
  config.pattern = "M-M-M-M*-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-";
  config.width = 2048;
  config.vocabulary = 131072;
  config.dtype = "bf16";
  config.mamba.num_heads = 64;
  config.mamba.num_groups = 8;
  config.attention.num_heads = 16;
  config.attention.num_kv_heads = 8;
  config.attention.head_dim = 128;
  config.mlp.hidden = 8192;
  return config;
}

Workload workload_2b(std::int64_t tokens_per_step = 1 << 20) {
  return {
      .model = config_2b(),
      .optimizer = {},
      .tokens_per_step = tokens_per_step,
      .tokens_per_microbatch = 8192,
      .document = 8192};
}

ModelValues values_of(const model::ModelConfig& config) {
  const model::HybridModel model(config);
  return count_values(model.parameters(), model::parse_pattern(config.pattern).num_layers());
}

Plan plan_of(const Workload& workload, const PlanMesh& mesh) {
  return make_plan(workload, values_of(workload.model), mesh, find_gpu("h100"));
}

TEST(Plan, ValuesAreThoseOfTheParameterStore) {
  for (const bool tied : {false, true}) {
    model::ModelConfig config = config_2b();
    config.tied = tied;
    const model::HybridModel model(config);
    EXPECT_EQ(values_of(config).total(), static_cast<double>(model.parameters().num_values()));
  }
}

TEST(Plan, ValuesOfALayerAreThoseCountedByHand) {
  const ModelValues values = values_of(config_2b());
  // in_proj to z, x, B, C, dt; taps and biases of x, B, C; gated norm; out_proj.
  EXPECT_EQ(
      values.layers[0].cut, 2048 * (2 * 4096 + 2 * 1024 + 64) + 6144 * 5 + 4096 + 4096 * 2048);
  EXPECT_EQ(values.layers[0].cut_fp32, 3 * 64); // A_log, D, dt_bias
  EXPECT_EQ(values.layers[0].whole, 2048);      // the layer's norm
  EXPECT_EQ(values.layers[1].cut, 2.0 * 2048 * 8192);
  EXPECT_EQ(values.embedding.cut, 131072.0 * 2048);
}

TEST(Plan, StaticMemoryOfOneRankIsThatOfTheRecipe) {
  const Workload one_microbatch = workload_2b(8192);
  const double values = values_of(one_microbatch.model).total();
  // bf16 weights and gradients, fp32 moments and masters; a few heads' values are fp32 always.
  const MemoryPlan memory = plan_of(one_microbatch, {}).memory;
  const double all = memory.weights + memory.gradients + memory.optimizer;
  EXPECT_NEAR(all / (16.0 * values), 1.0, 1e-4);
  // Several microbatches are added up in fp32.
  EXPECT_NEAR(plan_of(workload_2b(), {}).memory.gradients / (4.0 * values), 1.0, 1e-4);
}

TEST(Plan, ReplicasShareTheOptimizer) {
  const Workload workload = workload_2b();
  const MemoryPlan one = plan_of(workload, {}).memory;
  const MemoryPlan eight = plan_of(workload, {.dp = 4, .cp = 2}).memory;
  EXPECT_NEAR(eight.optimizer, one.optimizer / 8, 1.0);
  EXPECT_EQ(eight.weights, one.weights);
}

TEST(Plan, ThePipelinesFirstRankHoldsMostMicrobatches) {
  const Workload workload = workload_2b();
  const ModelValues values = values_of(workload.model);
  const PlanMesh mesh{.pp = 2};
  const StepModel step(workload, values, mesh, find_gpu("h100"));
  const PlanMesh short_mesh{.pp = 2, .dp = 128};
  const StepModel one_microbatch(workload, values, short_mesh, find_gpu("h100"));
  EXPECT_EQ(step.memory(0).activations, 2 * one_microbatch.memory(0).activations);
  EXPECT_EQ(step.memory(1).activations, one_microbatch.memory(1).activations);
  EXPECT_DOUBLE_EQ(step.bubble(), 1.0 / 129);
  EXPECT_DOUBLE_EQ(one_microbatch.bubble(), 0.5);
}

TEST(Plan, StagesAreThoseOfARun) {
  Workload workload = workload_2b();
  const PlanMesh mesh{.pp = 4, .virtual_stages = 2};
  const std::string resolved = model::resolve_pipes(
      workload.model, {.ranks = 4, .virtual_stages = 2, .tokens_per_microbatch = 8192});
  const auto segments = model::parse_pattern(resolved).segments;
  const auto stages = stages_of(workload, mesh);
  ASSERT_EQ(stages.size(), segments.size());
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    EXPECT_EQ(stages[i].layers, segments[i]);
    EXPECT_EQ(stages[i].offset, offset);
    EXPECT_EQ(stages[i].rank, static_cast<std::int64_t>(i % 4));
    offset += static_cast<std::int64_t>(segments[i].size());
  }
  // The head's rank has fewer layers; pipes of the pattern's own are kept, or refused.
  EXPECT_LT(segments.back().size(), segments[1].size());
  workload.model.pattern = resolved;
  EXPECT_EQ(refusal(workload, mesh), "");
  EXPECT_NE(refusal(workload, {.pp = 2}).find("8 segments for 2 stages"), std::string::npos);
  workload.model.pattern = "M-||M-";
  EXPECT_GT(plan_of(workload, {.pp = 3}).tokens_per_second, 0.0);
  EXPECT_EQ(refusal(workload, {}), "");
  // More stages than layers, as its pipes ask.
  workload.model.pattern = "M||";
  EXPECT_GT(plan_of(workload, {.pp = 3}).tokens_per_second, 0.0);
}

TEST(Plan, APipelinesStagesHaveEmbeddingAndHead) {
  for (const char* pattern : {"|M-", "M-|M-", "M-|"}) {
    // One microbatch: ranks work one after the other.
    Workload workload = workload_2b(8192);
    workload.model.pattern = pattern;
    const ModelValues values = values_of(workload.model);
    const PlanMesh mesh{.pp = 2};
    const StepModel step(workload, values, mesh, find_gpu("h100"));
    double work = 4 * find_gpu("h100").stage_pass;
    for (const std::int64_t rank : {0, 1}) {
      const TimePlan time = step.time(rank);
      work += time.total() - time[TimePart::kUpdate] - time[TimePart::kPipeline];
    }
    const TimePlan all = step.time(0);
    EXPECT_NEAR(
        all.total() - all[TimePart::kUpdate] - step.traffic(0).back().exposed, work, 1e-9 * work)
        << pattern;
  }
}

TEST(Plan, MicrobatchesAliveAreThoseOfTheSchedule) {
  for (const parallel::PipelineShape& shape :
       {parallel::PipelineShape{2, 1, 1},
        {2, 1, 5},
        {4, 1, 2},
        {4, 1, 9},
        {2, 2, 2},
        {2, 2, 8},
        {4, 3, 4},
        {4, 3, 12},
        {3, 5, 6}}) {
    const PlanMesh mesh{.pp = shape.ranks, .virtual_stages = shape.virtual_stages};
    const std::vector<int> alive =
        parallel::estimate_pipeline(
            parallel::make_pipeline_schedule(shape), parallel::PipelineCosts::equal(shape))
            .alive;
    for (int rank = 0; rank < shape.ranks; ++rank) {
      EXPECT_DOUBLE_EQ(
          microbatches_alive(mesh, shape.microbatches, rank) * shape.virtual_stages,
          alive[static_cast<std::size_t>(rank)])
          << shape.ranks << " " << shape.virtual_stages << " " << shape.microbatches << " " << rank;
    }
  }
}

TEST(Plan, AReductionOfEqualBitsKeepsPartialSums) {
  Workload workload = workload_2b(32 * 8192);
  const MemoryPlan plain = plan_of(workload, {.dp = 4}).memory;
  workload.deterministic_reduce = true;
  // Eight microbatches a rank: three bits of a binary counter; two buckets on their way.
  const MemoryPlan equal = plan_of(workload, {.dp = 4}).memory;
  EXPECT_DOUBLE_EQ(equal.gradients, 3 * plain.gradients + (64 << 20));
  EXPECT_NE(refusal(workload, {.cp = 3}).find("powers of two"), std::string::npos);
}

TEST(Plan, TrafficIsThatOfTheFormulas) {
  const Workload workload = workload_2b();
  const double values = values_of(workload.model).total();
  const Plan plan = plan_of(workload, {.dp = 4});
  ASSERT_EQ(plan.traffic.size(), 1U);
  EXPECT_EQ(plan.traffic[0].axis, Axis::kData);
  EXPECT_FALSE(plan.traffic[0].network);
  EXPECT_NEAR(plan.traffic[0].bytes / (0.75 * 6 * values), 1.0, 1e-4);
  EXPECT_TRUE(plan_of(workload, {.dp = 16}).traffic[0].network);
  // Ranks of tp are neighbours: they stay inside of a node.
  const Plan both = plan_of(workload, {.dp = 4, .tp = 8});
  ASSERT_EQ(both.traffic.size(), 2U);
  EXPECT_FALSE(both.traffic[0].network);
  EXPECT_TRUE(both.traffic[1].network);
  // 5 exchanges a layer, 2 of the embedding, 2 of the head, 7/8 of each, and three numbers a token
  // to the others, for 32 microbatches.
  const double exchanges = 5.0 * static_cast<double>(workload.model.pattern.size()) + 4;
  EXPECT_DOUBLE_EQ(
      both.traffic[0].bytes, 32 * (exchanges * 7 / 8 * 8192 * 2048 * 2 + 12.0 * 8192 * 7));
}

TEST(Plan, MessagesTakeTheirBytesAndTheLatencyOfTheirSteps) {
  const Workload workload = workload_2b();
  const GpuInfo& gpu = find_gpu("h100");
  // A Mamba-2 layer has 12 steps, one of attention 22; 128 microbatches.
  const TrafficPlan ring =
      plan_of(workload, {.cp = 8, .rules = {.keys = parallel::KeyExchange::kRing}}).traffic[0];
  const auto layers = [&](char symbol) {
    const std::string& pattern = workload.model.pattern;
    return static_cast<double>(std::count(pattern.begin(), pattern.end(), symbol));
  };
  EXPECT_NEAR(
      ring.seconds,
      ring.bytes / gpu.nvlink.bytes_per_second +
          128 * (12 * layers('M') + 22 * layers('*')) * gpu.nvlink.latency,
      1e-9);
  // Three ranks over nodes of eight: one of them may have a node, and an adapter, for itself.
  const TrafficPlan three = plan_of(workload, {.dp = 4, .cp = 3}).traffic[0];
  EXPECT_TRUE(three.network);
  EXPECT_NEAR(
      three.seconds,
      three.bytes / gpu.network.bytes_per_second +
          32 * (8 * layers('M') + 6 * layers('*')) * gpu.network.latency,
      1e-9);
}

TEST(Plan, UtilisationIsTheModelsOperationsOverPeak) {
  const Workload workload = workload_2b();
  const Plan plan = plan_of(workload, {.dp = 2});
  EXPECT_DOUBLE_EQ(
      plan.utilisation,
      operations_per_token(workload) * (1 << 20) / plan.time.total() / (2 * 989e12));
  // Every part of the time is counted once.
  EXPECT_DOUBLE_EQ(plan.tokens_per_second, (1 << 20) / plan.time.total());
  // Most operations are products with the matrices that are no lookup: 6 a value.
  const ModelValues values = values_of(workload.model);
  const double matrices = values.total() - values.embedding.total();
  EXPECT_GT(operations_per_token(workload), 6 * matrices);
  EXPECT_LT(operations_per_token(workload), 7.5 * matrices);
}

TEST(Plan, RefusesWhatDoesNotDivide) {
  const Workload workload = workload_2b();
  EXPECT_EQ(refusal(workload, {.dp = 4, .cp = 3}), "");
  EXPECT_NE(refusal(workload, {.dp = 3}).find("dp 3 does not divide"), std::string::npos);
  EXPECT_EQ(refusal(workload, {.tp = 16}), "");
  EXPECT_NE(refusal(workload, {.tp = 32}).find("num_heads (16)"), std::string::npos);
  EXPECT_EQ(refusal(workload, {.pp = 7}), "");
  EXPECT_NE(refusal(workload, {.pp = 64}).find("64 stages"), std::string::npos);
  EXPECT_NE(refusal(workload, {.pp = 3, .virtual_stages = 2}).find("multiples"), std::string::npos);
  const PlanMesh heads{.cp = 3, .rules = {.strategy = parallel::ContextStrategy::kAllToAll}};
  EXPECT_NE(refusal(workload, heads).find("all_to_all"), std::string::npos);
  EXPECT_THROW(plan_of(workload, {.dp = 3}), Error);
}

TEST(Plan, RefusalsNameValuesAndWhatTheyAreOf) {
  Workload workload = workload_2b();
  EXPECT_EQ(
      refusal(workload, {.virtual_stages = 2}),
      "virtual stages want pp above 1: virtual stages 2, pp 1");
  workload.model.mamba.num_heads = 24;
  EXPECT_EQ(
      refusal(
          workload,
          {.cp = 4, .tp = 4, .rules = {.strategy = parallel::ContextStrategy::kAllToAll}}),
      "all_to_all: cp 4 cannot share model.mamba.num_heads (6) and num_groups (2) of a rank of tp "
      "4");
  EXPECT_EQ(
      refusal(workload, {.tp = 16}),
      "tp 16 cannot share model.mamba.num_heads (24) and num_groups (8)");
  workload.model.mlp.hidden = 4;
  EXPECT_EQ(refusal(workload, {.tp = 8}), "tp 8 exceeds model.mlp.hidden (4)");
  workload.model.pattern = "M*";
  EXPECT_EQ(refusal(workload, {.tp = 8}), "");
  workload.model.vocabulary = 5;
  EXPECT_EQ(refusal(workload, {.tp = 8}), "tp 8 exceeds model.vocabulary (5)");
}

// Rows of docs/benchmarks/2026-11-26-h100.md that no constant was taken from.
TEST(Plan, TimeOfTheLossIsNearWhatWasMeasured) {
  struct Row {
    std::int64_t tokens, width, vocabulary;
    double seconds;
  };
  constexpr double kTolerance = 0.25;
  for (const Row& row : {Row{8192, 2048, 131072, 23.59e-3}, Row{16384, 1024, 32000, 6.451e-3}}) {
    model::ModelConfig config = config_2b();
    config.width = row.width;
    config.vocabulary = row.vocabulary;
    const LayerCosts costs = head_costs(config, {.tokens = row.tokens, .document = row.tokens});
    const double predicted = layer_time(costs, find_gpu("h100"), /*fp32=*/false).total();
    EXPECT_NEAR(predicted / row.seconds, 1.0, kTolerance);
  }
}

model::ModelConfig config_448m() {
  model::ModelConfig config = config_2b();
  config.pattern = "M-M-M--M-*M-M-M-M--*M-M-M-M-*M--M-M-M-*M-M--M-M-";
  config.width = 1024;
  config.vocabulary = 32000;
  config.mamba.num_heads = 32;
  config.attention.head_dim = 64;
  config.mlp.hidden = 4096;
  return config;
}

// The table of docs/benchmarks/2026-11-26-h100.md, "Training on two GPUs".
TEST(Plan, StepsAreNearWhatWasMeasured) {
  struct Row {
    bool large, long_documents, fp32;
    PlanMesh mesh;
    double tokens_per_second, gibibytes;
  };
  constexpr double kGibibyte = 1 << 30;
  // What a plan may be off: constants stand for all sizes, and cards differ by some percent.
  constexpr double kTime = 1.25;
  constexpr double kMemory = 0.05;
  for (const Row& row :
       {Row{false, false, true, {}, 10729, 45.3},
        Row{false, false, false, {}, 132247, 27.8},
        Row{false, true, false, {}, 88070, 46.1},
        Row{false, false, false, {.dp = 2}, 242405, 27.6},
        Row{false, false, false, {.cp = 2}, 190924, 18.8},
        Row{false, false, false, {.cp = 2}, 131589, 18.8}, // on a host of slower cores
        Row{false, false, false, {.tp = 2}, 158385, 17.6},
        Row{false, false, false, {.pp = 2}, 185831, 28.3},
        Row{false, false, false, {.pp = 2, .virtual_stages = 2}, 192484, 32.5},
        Row{false, true, false, {.cp = 2}, 153800, 28.1},
        Row{false,
            true,
            false,
            {.cp = 2, .rules = {.strategy = parallel::ContextStrategy::kAllToAll}},
            132676,
            30.6},
        Row{true, false, true, {}, 4050, 69.5},
        Row{true, false, false, {}, 42430, 55.6},
        Row{true, true, false, {}, 38247, 73.7},
        Row{true, false, false, {.dp = 2}, 79566, 46.6},
        Row{true, false, false, {.cp = 2}, 67783, 38.0},
        Row{true, false, false, {.tp = 2}, 58871, 31.3},
        Row{true, false, false, {.pp = 2}, 62351, 43.5},
        Row{true, false, false, {.pp = 2, .virtual_stages = 2}, 64402, 50.6},
        Row{true, true, false, {.cp = 2}, 65712, 47.1},
        Row{true,
            true,
            false,
            {.cp = 2, .rules = {.strategy = parallel::ContextStrategy::kAllToAll}},
            59133,
            49.3}}) {
    const std::int64_t microbatch = row.large ? 8192 : 16384;
    // Of documents of random length the sum of squares over the sum.
    const std::int64_t mixed = row.large ? 3077 : 6557;
    Workload workload{
        .model = row.large ? config_2b() : config_448m(),
        .optimizer = {},
        .tokens_per_step = 4 * microbatch,
        .tokens_per_microbatch = row.long_documents ? 2 * microbatch : microbatch,
        .document = row.long_documents ? 2 * microbatch : mixed};
    workload.model.dtype = row.fp32 ? "fp32" : "bf16";
    const Plan plan = plan_of(workload, row.mesh);
    SCOPED_TRACE((row.large ? "2.04G, " : "448M, ") + row.mesh.text());
    EXPECT_LT(row.tokens_per_second / plan.tokens_per_second, kTime);
    EXPECT_GT(row.tokens_per_second / plan.tokens_per_second, 1.0 / kTime);
    EXPECT_NEAR(row.gibibytes * kGibibyte / plan.memory.total(), 1.0, kMemory);
  }
}

TEST(Plan, AStepThatTheHostCannotLaunchFastEnoughWaitsForIt) {
  Workload workload = workload_2b(256);
  workload.tokens_per_microbatch = workload.document = 256;
  const TimePlan time = plan_of(workload, {}).time;
  const double launches =
      find_gpu("h100").host_per_layer * static_cast<double>(workload.model.pattern.size());
  EXPECT_GT(time[TimePart::kLaunches], 0.0);
  EXPECT_NEAR(time.total() - time[TimePart::kUpdate], launches, 1e-9);
}

TEST(PlanSearch, FindsEveryGridOnceAndSortsThem) {
  const Workload workload = workload_2b();
  const PlanSearch search =
      search_meshes(workload, values_of(workload.model), 8, {}, find_gpu("h100"));
  // Four axes whose powers of two add up to three.
  EXPECT_EQ(search.fitting.size() + search.too_large.size() + search.refused.size(), 20U);
  for (std::size_t i = 1; i < search.fitting.size(); ++i) {
    EXPECT_LE(search.fitting[i - 1].time.total(), search.fitting[i].time.total());
    EXPECT_TRUE(search.fitting[i].fits);
    EXPECT_EQ(search.fitting[i].mesh.gpus(), 8);
  }
}

TEST(PlanSearch, KeepsToWishes) {
  const Workload workload = workload_2b();
  const ModelValues values = values_of(workload.model);
  const auto strategy = parallel::ContextStrategy::kAllToAll;
  const PlanSearch search = search_meshes(
      workload, values, 8, {.cp = 2, .tp = 2, .strategy = strategy}, find_gpu("h100"));
  ASSERT_FALSE(search.fitting.empty());
  for (const Plan& plan : search.fitting) {
    EXPECT_EQ(plan.mesh.cp, 2);
    EXPECT_EQ(plan.mesh.tp, 2);
    EXPECT_EQ(plan.mesh.rules.strategy, strategy);
  }
  EXPECT_THROW(search_meshes(workload, values, 8, {.cp = 3}, find_gpu("h100")), Error);
}

TEST(PlanSearch, AModelTooLargeForOneGpuIsDivided) {
  Workload workload = workload_2b();
  workload.model.width = 8192;
  const ModelValues values = values_of(workload.model);
  const GpuInfo& gpu = find_gpu("h100");
  const PlanSearch one = search_meshes(workload, values, 1, {}, gpu);
  EXPECT_TRUE(one.fitting.empty());
  ASSERT_EQ(one.too_large.size(), 1U);
  EXPECT_GT(one.too_large[0].memory.total(), gpu.memory);
  EXPECT_FALSE(search_meshes(workload, values, 64, {}, gpu).fitting.empty());
}

TEST(GpuInfo, AnUnknownNameIsAnsweredWithTheNearest) {
  EXPECT_EQ(find_gpu("h100").gpus_per_node, 8);
  try {
    find_gpu("h10");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(
        std::string(error.what()), "unknown GPU 'h10', did you mean 'h100'?; known: h100, h200");
  }
}

} // namespace
} // namespace baton::train
