// SPDX-License-Identifier: Apache-2.0
// baton logits: what a model says about given tokens, for comparisons.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/model_folder.h"
#include "baton/base/error.h"
#include "baton/checkpoint/safetensors.h"

namespace baton {
namespace {

struct LogitsArguments {
  std::string model;
  std::vector<std::int64_t> tokens;
  std::string out;
  std::string device = "cpu";
  int threads = 0;
};

void run_logits(const LogitsArguments& arguments) {
  const LoadedModel loaded = load_model(arguments.model, arguments.device, arguments.threads);
  const std::int64_t vocabulary = loaded.model->config().vocabulary;
  for (const std::int64_t token : arguments.tokens) {
    if (token < 0 || token >= vocabulary) {
      throw Error(
          "--tokens: id " + std::to_string(token) + " is outside the vocabulary of " +
          std::to_string(vocabulary));
    }
  }
  const at::InferenceMode inference;
  const at::Device device(arguments.device);
  const SequenceLayout layout =
      make_layout_from_lengths({static_cast<std::int64_t>(arguments.tokens.size())}).to(device);
  const nn::StepContext context{.layout = layout, .positions_T = layout.positions()};
  const at::Tensor tokens_T = at::tensor(arguments.tokens, at::kLong).to(device);
  const at::Tensor logits_TV = loaded.model->logits(loaded.model->hidden(tokens_T, context));
  checkpoint::write_safetensors(
      arguments.out, {{"logits", logits_TV.to(at::kFloat).cpu().contiguous()}});
  std::printf(
      "wrote logits [%zu, %lld] to %s\n",
      arguments.tokens.size(),
      static_cast<long long>(vocabulary),
      arguments.out.c_str());
}

} // namespace

void add_logits_command(CLI::App& app) {
  auto arguments = std::make_shared<LogitsArguments>();
  CLI::App* command = app.add_subcommand("logits", "write the logits of given tokens");
  command->add_option("model", arguments->model, "run folder or checkpoint")->required();
  command->add_option("--tokens", arguments->tokens, "token ids: 1,2,3")
      ->delimiter(',')
      ->required();
  command
      ->add_option("--out", arguments->out, "safetensors file: logits [tokens, vocabulary], fp32")
      ->required();
  command->add_option("--device", arguments->device, "where the model runs")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "CPU threads; 0 takes all cores")
      ->check(CLI::NonNegativeNumber);
  command->callback([arguments] { run_logits(*arguments); });
}

} // namespace baton
