// SPDX-License-Identifier: Apache-2.0
// baton convert: between Baton's checkpoints and Hugging Face folders.
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/model_folder.h"
#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/base/version.h"
#include "baton/checkpoint/hf/export.h"
#include "baton/checkpoint/save.h"

namespace baton {
namespace {

namespace fs = std::filesystem;

struct ConvertArguments {
  std::string in;
  std::string out;
  std::string to;
  std::string family;
  std::string dtype;
  std::string shard_size = "5GB";
};

/// "5GB", "500MB", "1000": bytes, in powers of ten as the hub counts them.
std::uint64_t parse_size(const std::string& text) {
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  const std::map<std::string, std::uint64_t> units{
      {"", 1}, {"B", 1}, {"KB", 1'000}, {"MB", 1'000'000}, {"GB", 1'000'000'000}};
  const auto unit = units.find(std::string(rest, end));
  if (error != std::errc() || unit == units.end() || number == 0 || number > (1ULL << 40)) {
    throw Error("--shard-size: must be a size such as 5GB or 500MB, got " + text);
  }
  return number * unit->second;
}

/// What a tokenizer and a generation are made of, bytes by name.
std::map<std::string, std::string> companions(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const char* name :
       {"tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "generation_config.json",
        "chat_template.jinja"}) {
    std::error_code error;
    if (fs::is_regular_file(folder / name, error)) {
      files[name] = read_file((folder / name).string());
    }
  }
  return files;
}

std::map<std::string, std::string> tokenizer_files(const LoadedModel& loaded) {
  std::map<std::string, std::string> files;
  if (loaded.tokenizer != nullptr) {
    for (const std::string& path : loaded.tokenizer->files()) {
      const fs::path folder = fs::path(path).parent_path();
      files.merge(companions(folder));
      files[fs::path(path).filename().string()] = read_file(path);
    }
  }
  return files;
}

void to_hugging_face(const ConvertArguments& arguments) {
  const LoadedModel loaded = load_model(arguments.in, {});
  checkpoint::hf::ExportOptions options{
      .shard_bytes = parse_size(arguments.shard_size), .files = tokenizer_files(loaded)};
  if (!arguments.family.empty()) {
    options.family = &checkpoint::hf::find_family(arguments.family);
  }
  const std::map<std::string, at::ScalarType> dtypes{
      {"fp32", at::kFloat}, {"bf16", at::kBFloat16}, {"fp16", at::kHalf}, {"fp64", at::kDouble}};
  if (!arguments.dtype.empty()) {
    options.dtype = dtypes.at(arguments.dtype);
  }
  if (loaded.source_config.is_object()) {
    options.base = loaded.source_config;
  }
  const checkpoint::hf::ExportReport report = checkpoint::hf::export_model(
      arguments.out,
      loaded.model->config(),
      nn::parameter_tensors(loaded.model->parameters()),
      options);
  std::printf(
      "wrote %s: family %s, %.1f MB of tensors in %lld files\n",
      arguments.out.c_str(),
      report.family.c_str(),
      static_cast<double>(report.tensor_bytes) / 1e6,
      static_cast<long long>(report.shards));
}

void to_baton(const ConvertArguments& arguments) {
  if (!arguments.family.empty()) {
    throw Error("--family: only a Hugging Face folder has one");
  }
  LoadOptions load;
  if (arguments.dtype == "fp16") {
    throw Error("--dtype: Baton's models are fp32, bf16 or fp64");
  }
  if (!arguments.dtype.empty()) {
    load.assignments.push_back("model.dtype=" + arguments.dtype);
  }
  const LoadedModel loaded = load_model(arguments.in, load);
  std::error_code error;
  if (fs::exists(arguments.out, error) && !fs::is_empty(arguments.out, error)) {
    throw Error(arguments.out + ": is there already");
  }
  train::Recipe recipe = loaded.recipe;
  recipe.run.folder = arguments.out;
  if (loaded.tokenizer == nullptr) {
    recipe.data.tokenizer.clear();
  }
  nlohmann::json state = nlohmann::json::object();
  if (!loaded.source_config.is_null()) {
    state["source_config"] = loaded.source_config;
  }
  const fs::path folder = checkpoint::save_checkpoint(
      {.step = 0,
       .program = kVersion,
       .parameters = parallel::slices_of(nn::parameter_tensors(loaded.model->parameters())),
       .optimizer_states = {},
       .train_state = std::move(state),
       .recipe = config_to_toml(recipe),
       .tokenizer_files = tokenizer_files(loaded)},
      {.run_folder = arguments.out});
  std::printf("wrote %s\n", folder.c_str());
}

} // namespace

void add_convert_command(CLI::App& app) {
  auto arguments = std::make_shared<ConvertArguments>();
  CLI::App* command =
      app.add_subcommand("convert", "between Baton's checkpoints and Hugging Face folders");
  command->add_option("in", arguments->in, "run folder, checkpoint or Hugging Face folder")
      ->required();
  command->add_option("out", arguments->out, "folder to make")->required();
  command->add_option("--to", arguments->to, "what to make")
      ->check(CLI::IsMember({"hf", "baton"}))
      ->required();
  command->add_option(
      "--family",
      arguments->family,
      "nemotron_h, mamba2, bamba, granitemoehybrid or state_spaces; by default the model's own, "
      "or the first that can hold it");
  command->add_option("--dtype", arguments->dtype, "of the tensors; by default the model's")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16", "fp64"}));
  command->add_option("--shard-size", arguments->shard_size, "largest file of tensors")
      ->capture_default_str();
  command->callback([arguments] {
    if (arguments->to == "hf") {
      to_hugging_face(*arguments);
    } else {
      to_baton(*arguments);
    }
  });
}

} // namespace baton
