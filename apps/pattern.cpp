// SPDX-License-Identifier: Apache-2.0
// `baton pattern`: shows what a layer pattern means, and makes patterns from ratios.
#include "baton/model/pattern.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/table.h"
#include "baton/base/error.h"

namespace baton {
namespace {

using model::LayerPattern;
using model::PipelineStage;

struct PatternOptions {
  std::optional<std::string> pattern;
  std::optional<std::int64_t> layers;
  std::optional<double> attention_ratio;
  std::optional<double> mlp_ratio;
  model::PipelineSplit split;
  bool json = false;
};

// A pattern may begin with '-' (an MLP layer), which the command line takes for an option.
bool looks_like_pattern(const std::string& argument) {
  return argument.size() > 1 && argument.front() == '-' &&
         std::none_of(argument.begin(), argument.end(), [](char letter) {
           return (letter >= 'a' && letter <= 'z') || letter == '=';
         });
}

void take_rest(const std::vector<std::string>& rest, PatternOptions& options) {
  for (const std::string& argument : rest) {
    if (options.pattern || !looks_like_pattern(argument)) {
      throw Error("unexpected argument '" + argument + "'; see `baton pattern --help`");
    }
    options.pattern = argument;
  }
}

LayerPattern chosen_pattern(const PatternOptions& options) {
  if (!options.layers) {
    if (options.attention_ratio || options.mlp_ratio) {
      throw Error("--attention-ratio and --mlp-ratio need --layers");
    }
    if (!options.pattern) {
      throw Error("give a PATTERN, or --layers with --attention-ratio and --mlp-ratio");
    }
    return model::parse_pattern(*options.pattern);
  }
  if (options.pattern) {
    throw Error("give either a PATTERN or --layers, not both");
  }
  return model::parse_pattern(model::pattern_from_ratios(
      {*options.layers, options.attention_ratio.value_or(0), options.mlp_ratio.value_or(0)}));
}

nlohmann::ordered_json to_json(
    const LayerPattern& pattern,
    const std::vector<PipelineStage>& stages) {
  nlohmann::ordered_json json;
  json["layers"] = pattern.layers;
  json["segments"] = nlohmann::json::array();
  json["mtp"] = {{"pattern", pattern.mtp}, {"depth", pattern.mtp_depth}};
  for (const model::LayerKind kind : model::kLayerKinds) {
    json["counts"][std::string(1, model::symbol_of(kind))] = model::count_layers(pattern, kind);
  }
  json["stages"] = nlohmann::json::array();
  for (const PipelineStage& stage : stages) {
    json["segments"].push_back(stage.layers);
    nlohmann::ordered_json entry;
    entry["rank"] = stage.rank;
    entry["virtual"] = stage.virtual_stage;
    entry["layers"] = stage.layers;
    entry["offset"] = stage.offset;
    json["stages"].push_back(entry);
  }
  return json;
}

// "0-3, 5": numbers that rise, runs of neighbours drawn together.
std::string ranges(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (std::size_t begin = 0; begin < numbers.size();) {
    std::size_t end = begin + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) {
      ++end;
    }
    text += (text.empty() ? "" : ", ") + std::to_string(numbers[begin]);
    if (end - begin > 1) {
      text += "-" + std::to_string(numbers[end - 1]);
    }
    begin = end;
  }
  return text;
}

void print_for_people(const LayerPattern& pattern, const std::vector<PipelineStage>& stages) {
  std::printf("pattern  %s\n", pattern.text().c_str());
  std::printf("layers   %s\n", std::to_string(pattern.num_layers()).c_str());
  if (pattern.mtp_depth > 0) {
    std::printf(
        "further tokens predicted by  %s  x %s\n",
        pattern.mtp.c_str(),
        std::to_string(pattern.mtp_depth).c_str());
  }
  std::printf("\n");
  const model::LayerMap map(pattern.layers);
  std::vector<std::vector<std::string>> kinds = {{"symbol", "kind", "count", "main layers"}};
  for (const model::LayerKind kind : model::kLayerKinds) {
    const std::int64_t count = model::count_layers(pattern, kind);
    if (count > 0) {
      kinds.push_back(
          {std::string(1, model::symbol_of(kind)),
           std::string(model::name_of(kind)),
           std::to_string(count),
           ranges(map.layers_of(kind))});
    }
  }
  print_table(kinds);
  std::printf("\n");
  std::vector<std::vector<std::string>> rows = {{"rank", "virtual", "offset", "count", "layers"}};
  for (const PipelineStage& stage : stages) {
    rows.push_back(
        {std::to_string(stage.rank),
         std::to_string(stage.virtual_stage),
         std::to_string(stage.offset),
         std::to_string(stage.layers.size()),
         stage.layers});
  }
  print_table(rows);
}

void show_pattern(const PatternOptions& options) {
  const LayerPattern pattern = chosen_pattern(options);
  const std::vector<PipelineStage> stages = model::split_pipeline(pattern, options.split);
  if (options.json) {
    std::printf("%s\n", to_json(pattern, stages).dump(2).c_str());
  } else {
    print_for_people(pattern, stages);
  }
}

} // namespace

void add_pattern_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("pattern", "show what a layer pattern means");
  const auto options = std::make_shared<PatternOptions>();
  command->add_option(
      "PATTERN",
      options->pattern,
      "one symbol a layer: M Mamba-2, * attention, - MLP, E mixture of experts, G gated delta net, "
      "+ latent attention, D sparse attention; | ends a pipeline segment, / starts a "
      "multi-token-prediction part");
  command->add_option("--layers", options->layers, "make a pattern of this many layers");
  command->add_option("--attention-ratio", options->attention_ratio, "share of attention layers");
  command->add_option("--mlp-ratio", options->mlp_ratio, "share of MLP layers");
  command->add_option("--pipeline", options->split.ranks, "pipeline ranks")->capture_default_str();
  command->add_option(
      "--virtual",
      options->split.virtual_stages,
      "virtual stages a rank; by default what the segments give");
  command->add_option(
      "--first-stage-layers",
      options->split.first_stage_layers,
      "layers of the first pipeline rank, for patterns without |");
  command->add_option(
      "--last-stage-layers",
      options->split.last_stage_layers,
      "layers of the last pipeline rank, for patterns without |");
  command->add_flag("--json", options->json, "print JSON");
  command->allow_extras();
  command->callback([command, options] {
    take_rest(command->remaining(), *options);
    show_pattern(*options);
  });
}

} // namespace baton
