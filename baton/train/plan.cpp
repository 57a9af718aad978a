// SPDX-License-Identifier: Apache-2.0
#include "baton/train/plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "baton/base/error.h"
#include "baton/model/pipeline_cut.h"
#include "baton/train/step_model.h"

namespace baton::train {
namespace {

constexpr double kSpare = 0.05; // of a GPU's memory: what predictions of it may be off

std::string first_of(std::initializer_list<std::string> reasons) {
  for (const std::string& reason : reasons) {
    if (!reason.empty()) {
      return reason;
    }
  }
  return "";
}

bool has_layers(const model::ModelConfig& model, char symbol) {
  return model.pattern.find(symbol) != std::string::npos;
}

/// Whether `ranks` can share heads, and the groups of heads: fewer groups are held several times.
bool shares_heads(std::int64_t heads, std::int64_t groups, std::int64_t ranks) {
  return heads % ranks == 0 && (groups % ranks == 0 || ranks % groups == 0);
}

std::string heads_rule(
    const std::string& axis,
    std::int64_t ranks,
    const std::string& section,
    std::int64_t heads,
    const std::string& of_groups,
    std::int64_t groups,
    const std::string& whose) {
  return shares_heads(heads, groups, ranks)
             ? ""
             : axis + " " + std::to_string(ranks) + " cannot share " + section + "num_heads (" +
                   std::to_string(heads) + ") and " + of_groups + " (" + std::to_string(groups) +
                   ")" + whose;
}

/// Of the heads that a rank of `tp` has.
std::string heads_refusal(
    const model::ModelConfig& model,
    const std::string& axis,
    std::int64_t ranks,
    std::int64_t tp) {
  const std::string whose = tp > 1 ? " of a rank of tp " + std::to_string(tp) : "";
  const auto groups = [&](std::int64_t all) { return std::max<std::int64_t>(1, all / tp); };
  const nn::Mamba2Config& mamba = model.mamba;
  const nn::AttentionConfig& attention = model.attention;
  return first_of(
      {has_layers(model, 'M') ? heads_rule(
                                    axis,
                                    ranks,
                                    "model.mamba.",
                                    mamba.num_heads / tp,
                                    "num_groups",
                                    groups(mamba.num_groups),
                                    whose)
                              : "",
       has_layers(model, '*') ? heads_rule(
                                    axis,
                                    ranks,
                                    "model.attention.",
                                    attention.num_heads / tp,
                                    "num_kv_heads",
                                    groups(attention.num_kv_heads),
                                    whose)
                              : ""});
}

std::string tensor_refusal(const model::ModelConfig& model, std::int64_t tp) {
  const auto exceeds = [&](const char* key, std::int64_t size) {
    return tp > size
               ? "tp " + std::to_string(tp) + " exceeds " + key + " (" + std::to_string(size) + ")"
               : "";
  };
  return first_of(
      {exceeds("model.vocabulary", model.vocabulary),
       has_layers(model, '-') ? exceeds("model.mlp.hidden", model.mlp.hidden) : "",
       heads_refusal(model, "tp", tp, 1)});
}

std::string
pipeline_refusal(const Workload& workload, const PlanMesh& mesh, std::int64_t microbatches) {
  if (mesh.virtual_stages > 1 && mesh.pp == 1) {
    return "virtual stages want pp above 1: virtual stages " + std::to_string(mesh.virtual_stages) +
           ", pp 1";
  }
  if (mesh.virtual_stages > 1 && microbatches % mesh.pp != 0) {
    return "virtual stages want microbatches in multiples of pp: " + std::to_string(microbatches) +
           " vs " + std::to_string(mesh.pp);
  }
  const model::LayerPattern pattern = model::parse_pattern(workload.model.pattern);
  const std::int64_t stages = mesh.pp * mesh.virtual_stages;
  const auto segments = static_cast<std::int64_t>(pattern.segments.size());
  if (pattern.has_pipes() && mesh.pp > 1 && stages != segments) {
    return "model.pattern has " + std::to_string(segments) + " segments for " +
           std::to_string(stages) + " stages of a pipeline";
  }
  // Stages that pipes make may have no layers.
  return pattern.has_pipes() || stages <= std::max<std::int64_t>(1, pattern.num_layers())
             ? ""
             : std::to_string(stages) + " stages of a pipeline for " +
                   std::to_string(pattern.num_layers()) + " layers";
}

std::string
reduce_refusal(const Workload& workload, const PlanMesh& mesh, std::int64_t microbatches) {
  const auto is_power = [](std::int64_t n) {
    return std::has_single_bit(static_cast<std::uint64_t>(n));
  };
  constexpr std::int64_t kMostReplicas = 64;
  const std::int64_t replicas = mesh.dp * mesh.cp;
  return !workload.deterministic_reduce || (is_power(mesh.dp) && is_power(microbatches) &&
                                            is_power(replicas) && replicas <= kMostReplicas)
             ? ""
             : "train.deterministic_reduce wants powers of two, and dp x cp of 64 at most: dp " +
                   std::to_string(mesh.dp) + ", cp " + std::to_string(mesh.cp) + ", " +
                   std::to_string(microbatches) + " microbatches";
}

} // namespace

std::string PlanMesh::text() const {
  std::string text = "pp " + std::to_string(pp);
  if (virtual_stages > 1) {
    text += " x " + std::to_string(virtual_stages);
  }
  text += ", dp " + std::to_string(dp) + ", cp " + std::to_string(cp);
  if (cp > 1) {
    const bool heads = rules.strategy == parallel::ContextStrategy::kAllToAll;
    const bool ring = rules.keys == parallel::KeyExchange::kRing;
    text += heads ? " (all_to_all)" : ring ? " (baton, ring)" : " (baton, gather)";
  }
  return text + ", tp " + std::to_string(tp);
}

std::vector<model::PipelineStage> stages_of(const Workload& workload, const PlanMesh& mesh) {
  if (mesh.pp == 1) {
    return {{.layers = model::parse_pattern(workload.model.pattern).layers}};
  }
  const std::string pattern = model::resolve_pipes(
      workload.model,
      {.ranks = mesh.pp,
       .virtual_stages = mesh.virtual_stages,
       .tokens_per_microbatch = workload.tokens_per_microbatch});
  model::PipelineSplit split;
  split.ranks = mesh.pp;
  split.virtual_stages = mesh.virtual_stages;
  return model::split_pipeline(model::parse_pattern(pattern), split);
}

const char* part_name(TimePart part) {
  static constexpr std::array<const char*, kTimeParts> kNames{
      "matrix products",
      "scan",
      "attention",
      "passes over memory",
      "launches",
      "update",
      "tensor parallel traffic",
      "context parallel traffic",
      "gradients and parameters",
      "pipeline"};
  return kNames[static_cast<std::size_t>(part)];
}

TimePlan& TimePlan::add(const TimePlan& other, double factor) {
  for (std::size_t i = 0; i < kTimeParts; ++i) {
    parts[i] += factor * other.parts[i];
  }
  return *this;
}

double TimePlan::total() const {
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

TimePart TimePlan::longest() const {
  return static_cast<TimePart>(std::max_element(parts.begin(), parts.end()) - parts.begin());
}

std::string refusal(const Workload& workload, const PlanMesh& mesh) {
  const std::int64_t at_once = workload.tokens_per_microbatch * mesh.dp;
  if (workload.tokens_per_step % at_once != 0) {
    return "dp " + std::to_string(mesh.dp) + " does not divide the microbatches of a step (" +
           std::to_string(workload.tokens_per_step / workload.tokens_per_microbatch) + ")";
  }
  const std::int64_t microbatches = workload.tokens_per_step / at_once;
  const bool by_heads = mesh.cp > 1 && mesh.rules.strategy == parallel::ContextStrategy::kAllToAll;
  return first_of(
      {tensor_refusal(workload.model, mesh.tp),
       by_heads ? heads_refusal(workload.model, "all_to_all: cp", mesh.cp, mesh.tp) : "",
       pipeline_refusal(workload, mesh, microbatches),
       reduce_refusal(workload, mesh, microbatches)});
}

Plan make_plan(
    const Workload& workload,
    const ModelValues& values,
    const PlanMesh& mesh,
    const GpuInfo& gpu) {
  if (const std::string reason = refusal(workload, mesh); !reason.empty()) {
    throw Error(mesh.text() + ": " + reason);
  }
  const StepModel step(workload, values, mesh, gpu);
  Plan plan;
  plan.mesh = mesh;
  plan.microbatches = step.microbatches();
  for (std::int64_t rank = 0; rank < mesh.pp; ++rank) {
    const MemoryPlan memory = step.memory(rank);
    if (rank == 0 || memory.total() > plan.memory.total()) {
      plan.memory = memory;
      plan.fullest_stage = rank;
    }
  }
  plan.fits = plan.memory.total() <= (1.0 - kSpare) * gpu.memory;
  const std::int64_t busiest = step.slowest_rank();
  plan.operations = step.operations(busiest);
  plan.traffic = step.traffic(busiest);
  plan.bubble = step.bubble();
  plan.time = step.time(busiest);
  const auto tokens = static_cast<double>(workload.tokens_per_step);
  plan.tokens_per_second = tokens / plan.time.total();
  plan.utilisation = operations_per_token(workload) * plan.tokens_per_second /
                     (gpu.peak * static_cast<double>(mesh.gpus()));
  return plan;
}

} // namespace baton::train
