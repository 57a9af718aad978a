// SPDX-License-Identifier: Apache-2.0
// baton eval: loss of a model on a data set.
#include <cmath>
#include <cstdio>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/model_folder.h"
#include "baton/base/error.h"
#include "baton/data/indexed_dataset.h"
#include "baton/train/evaluation.h"

namespace baton {
namespace {

struct EvalArguments {
  std::string model;
  LoadOptions load;
  std::string data;
  std::int64_t max_tokens = 0;
  bool json = false;
};

std::vector<std::int64_t> bytes_of_tokens(const Tokenizer& tokenizer, std::int64_t vocabulary) {
  std::vector<std::int64_t> bytes(static_cast<std::size_t>(vocabulary), 0);
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    bytes[static_cast<std::size_t>(id)] =
        static_cast<std::int64_t>(tokenizer.token_bytes(id).size());
  }
  return bytes;
}

void run_eval(const EvalArguments& arguments) {
  const LoadedModel loaded = load_model(arguments.model, arguments.load);
  const auto dataset = std::make_shared<const IndexedDataset>(arguments.data);
  const train::EvaluationResult result = train::evaluate(
      *loaded.model,
      dataset,
      {.tokens_per_microbatch = loaded.recipe.data.tokens_per_microbatch,
       .max_tokens = arguments.max_tokens,
       .token_bytes = bytes_of_tokens(
           tokenizer_of(loaded, arguments.model), loaded.model->config().vocabulary)});
  if (result.targets == 0) {
    throw Error(arguments.data + ": holds no token with a label");
  }
  const double loss = result.loss();
  const double bits_per_byte =
      result.nll_sum / std::numbers::ln2 / static_cast<double>(result.bytes);
  if (arguments.json) {
    const nlohmann::json json{
        {"loss", loss},
        {"perplexity", std::exp(loss)},
        {"bits_per_byte", bits_per_byte},
        {"tokens", result.targets}};
    std::printf("%s\n", json.dump().c_str());
    return;
  }
  std::printf(
      "loss %.4f nats a token, perplexity %.3f, %.4f bits a byte, over %lld tokens\n",
      loss,
      std::exp(loss),
      bits_per_byte,
      static_cast<long long>(result.targets));
}

} // namespace

void add_eval_command(CLI::App& app) {
  auto arguments = std::make_shared<EvalArguments>();
  CLI::App* command =
      app.add_subcommand("eval", "loss, perplexity and bits per byte on a data set");
  add_load_options(*command, arguments->model, arguments->load);
  command->add_option("--data", arguments->data, "data set without .bin and .idx")->required();
  command->add_option("--max-tokens", arguments->max_tokens, "stop after so many; 0 reads all")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--json", arguments->json, "one JSON object");
  command->callback([arguments] { run_eval(*arguments); });
}

} // namespace baton
