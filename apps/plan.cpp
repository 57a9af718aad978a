// SPDX-License-Identifier: Apache-2.0
// baton plan: what a recipe's training step needs and takes on so many GPUs, before they are there.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/plan_text.h"
#include "baton/base/error.h"
#include "baton/data/tokenizer.h"
#include "baton/model/hybrid_model.h"
#include "baton/model/pattern.h"
#include "baton/train/plan_search.h"
#include "baton/train/read_recipe.h"

namespace baton {
namespace {

constexpr std::int64_t kMostGpus = 1 << 20;

struct PlanArguments {
  std::string recipe;
  std::vector<std::string> assignments;
  std::vector<std::int64_t> gpus;
  std::string gpu = "h100";
  train::MeshWishes wishes;
  std::optional<std::string> context;
  std::optional<std::string> attention;
  bool recipe_mesh = false;
  std::int64_t document = 0;
  std::size_t meshes = 5;
  bool json = false;
};

parallel::ContextStrategy strategy_of(const std::string& text) {
  return text == "baton" ? parallel::ContextStrategy::kBaton : parallel::ContextStrategy::kAllToAll;
}

parallel::KeyExchange keys_of(const std::string& text) {
  return text == "ring" ? parallel::KeyExchange::kRing : parallel::KeyExchange::kGather;
}

/// "h100 or h200"
std::string gpu_names() {
  std::string names;
  for (const train::GpuInfo& gpu : train::known_gpus()) {
    names += (names.empty() ? "" : " or ") + gpu.name;
  }
  return names;
}

/// What options say, and then, where that is asked for, the recipe.
train::MeshWishes wishes_of(
    const PlanArguments& arguments,
    const parallel::ParallelConfig& recipe) {
  train::MeshWishes wishes = arguments.wishes;
  if (arguments.context) {
    wishes.strategy = strategy_of(*arguments.context);
  }
  if (arguments.attention) {
    wishes.keys = keys_of(*arguments.attention);
  }
  if (arguments.recipe_mesh) {
    wishes.pp = wishes.pp.value_or(recipe.pp);
    wishes.cp = wishes.cp.value_or(recipe.cp);
    wishes.tp = wishes.tp.value_or(recipe.tp);
    wishes.virtual_stages = wishes.virtual_stages.value_or(recipe.virtual_stages);
    wishes.strategy = wishes.strategy.value_or(strategy_of(recipe.context));
    wishes.keys = wishes.keys.value_or(keys_of(recipe.attention));
  }
  return wishes;
}

/// With what the recipe leaves open settled as a run on a GPU settles it.
train::Workload workload_of(const train::Recipe& recipe, std::int64_t document) {
  train::Workload workload{
      .model = recipe.model,
      .optimizer = recipe.train.optimizer,
      .tokens_per_step = recipe.train.tokens_per_step,
      .tokens_per_microbatch = recipe.data.tokens_per_microbatch,
      .document = document > 0 ? document : recipe.data.tokens_per_microbatch,
      .deterministic_reduce = recipe.train.deterministic_reduce};
  if (workload.document > workload.tokens_per_microbatch) {
    throw Error(
        "--document-tokens must not exceed data.tokens_per_microbatch: " +
        std::to_string(workload.document) + " vs " +
        std::to_string(workload.tokens_per_microbatch));
  }
  workload.model.settle_dtype(at::Device(at::kCUDA));
  if (workload.model.vocabulary == 0) {
    workload.model.vocabulary =
        padded_vocab_size(make_tokenizer(recipe.data.tokenizer)->vocab_size());
  }
  return workload;
}

PlanFindings find_plans(
    const PlanArguments& arguments,
    const train::Workload& workload,
    const train::ModelValues& values,
    const train::MeshWishes& wishes,
    std::int64_t gpus) {
  PlanFindings findings{
      .recipe = arguments.recipe,
      .gpus = gpus,
      .gpu = train::find_gpu(arguments.gpu),
      .workload = workload,
      .parameters = values.total(),
      .search = {}};
  findings.search = train::search_meshes(workload, values, gpus, wishes, findings.gpu);
  const train::PlanSearch& search = findings.search;
  if (search.fitting.empty() && search.too_large.empty()) {
    const train::RefusedMesh& refused = search.refused.front();
    throw Error(
        "no mesh of " + std::to_string(gpus) + " GPUs runs this recipe; " + refused.mesh.text() +
        ": " + refused.reason);
  }
  return findings;
}

void run_plan(const PlanArguments& arguments) {
  const train::Recipe recipe = train::read_recipe(arguments.recipe, arguments.assignments);
  const train::Workload workload = workload_of(recipe, arguments.document);
  // Checks the configuration, and declares parameters without giving them memory.
  const model::HybridModel model(workload.model);
  const train::ModelValues values = train::count_values(
      model.parameters(), model::parse_pattern(workload.model.pattern).num_layers());
  const train::MeshWishes wishes = wishes_of(arguments, recipe.parallel);
  std::vector<PlanFindings> all;
  for (const std::int64_t gpus : arguments.gpus) {
    all.push_back(find_plans(arguments, workload, values, wishes, gpus));
  }
  if (arguments.json) {
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const PlanFindings& findings : all) {
      json.push_back(plan_json(findings, arguments.meshes));
    }
    std::printf("%s\n", (all.size() == 1 ? json.front() : json).dump(2).c_str());
  } else if (all.size() == 1) {
    print_plan(all.front(), arguments.meshes);
  } else {
    print_scaling(all);
  }
}

void add_mesh_options(CLI::App& command, PlanArguments& arguments) {
  const auto add = [&](const char* name, std::optional<std::int64_t>& wish, const char* meaning) {
    command.add_option(name, wish, meaning)->check(CLI::PositiveNumber);
  };
  add("--pp", arguments.wishes.pp, "pipeline ranks; what is not given is searched for");
  add("--dp", arguments.wishes.dp, "ranks that share the microbatches of a step");
  add("--cp", arguments.wishes.cp, "ranks that share the tokens of a microbatch");
  add("--tp", arguments.wishes.tp, "ranks that share each matrix");
  add("--virtual-stages", arguments.wishes.virtual_stages, "parts of the layers of a pp rank");
  command.add_flag(
      "--recipe-mesh", arguments.recipe_mesh, "the recipe's parallel section settles what is not");
  command.add_option("--context", arguments.context, "how cp ranks share a mixer")
      ->check(CLI::IsMember({"baton", "all_to_all"}));
  command.add_option("--attention", arguments.attention, "how cp ranks share attention")
      ->check(CLI::IsMember({"gather", "ring"}));
}

} // namespace

void add_plan_command(CLI::App& app) {
  auto arguments = std::make_shared<PlanArguments>();
  CLI::App* command = app.add_subcommand(
      "plan", "predict memory, traffic and time of a recipe's training step on many GPUs");
  command->add_option("recipe", arguments->recipe, "TOML file")->required();
  command->add_option(
      "--set", arguments->assignments, "override a key: KEY=VALUE; may be repeated");
  command->add_option("--gpus", arguments->gpus, "how many; several, as 8,64,512, give a line each")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(std::int64_t{1}, kMostGpus))
      ->required();
  command->add_option("--gpu", arguments->gpu, "what kind: " + gpu_names())->capture_default_str();
  add_mesh_options(*command, *arguments);
  command
      ->add_option(
          "--document-tokens", arguments->document, "of each document; by default a microbatch")
      ->check(CLI::PositiveNumber);
  command->add_option("--meshes", arguments->meshes, "how many of the best meshes to show")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "print JSON");
  command->callback([arguments] { run_plan(*arguments); });
}

} // namespace baton
