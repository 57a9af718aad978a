// SPDX-License-Identifier: Apache-2.0
// baton generate: text that continues a prompt, streamed.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/model_folder.h"
#include "apps/stop_text.h"
#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/infer/engine.h"
#include "baton/infer/prompt.h"

namespace baton {
namespace {

struct GenerateArguments {
  std::string model;
  LoadOptions load;
  std::string prompt;
  std::string prompt_file;
  std::int64_t max_new_tokens = 256;
  infer::SamplingConfig sampling;
  std::vector<std::string> stop;
  bool json = false;
};

void print_json(
    const std::string& prompt,
    const std::string& text,
    const std::vector<std::int64_t>& tokens,
    const std::string& finish_reason) {
  // Bytes that are no UTF-8 cannot stand in JSON; they become U+FFFD.
  const nlohmann::json result{
      {"prompt", prompt}, {"text", text}, {"tokens", tokens}, {"finish_reason", finish_reason}};
  std::printf(
      "%s\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

void run_generate(const GenerateArguments& arguments) {
  const std::string prompt =
      arguments.prompt_file.empty() ? arguments.prompt : read_file(arguments.prompt_file);
  if (prompt.empty()) {
    throw Error("--prompt: the prompt is empty");
  }
  const LoadedModel loaded = load_model(arguments.model, arguments.load);
  const Tokenizer& tokenizer = tokenizer_of(loaded, arguments.model);
  const infer::Engine engine(*loaded.model);
  if (!loaded.model->device().is_cpu()) {
    engine.load_kernels();
  }
  StreamingDecoder decoder(tokenizer);
  StopText stop(arguments.stop);
  std::string text;
  std::vector<std::int64_t> tokens;
  const auto emit = [&](const std::string& piece) {
    text += piece;
    if (!arguments.json) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    }
  };
  if (!arguments.json) {
    std::fwrite(prompt.data(), 1, prompt.size(), stdout);
  }
  engine.generate(
      {{.prompt = infer::prompt_tokens(tokenizer, prompt),
        .max_new_tokens = arguments.max_new_tokens,
        .end_tokens = infer::end_tokens(tokenizer),
        .sampling = arguments.sampling}},
      [&](std::size_t, std::int64_t token) {
        tokens.push_back(token);
        emit(stop.push(decoder.push(static_cast<std::int32_t>(token))));
        return !stop.found();
      });
  if (!stop.found()) {
    emit(stop.push(decoder.finish()));
    emit(stop.finish());
  }
  const bool length = static_cast<std::int64_t>(tokens.size()) == arguments.max_new_tokens;
  if (arguments.json) {
    print_json(prompt, text, tokens, length && !stop.found() ? "length" : "stop");
  } else {
    std::printf("\n");
  }
}

} // namespace

void add_generate_command(CLI::App& app) {
  auto arguments = std::make_shared<GenerateArguments>();
  CLI::App* command = app.add_subcommand("generate", "continue a prompt");
  infer::SamplingConfig& sampling = arguments->sampling;
  add_load_options(*command, arguments->model, arguments->load);
  auto* text = command->add_option("--prompt", arguments->prompt, "text to continue");
  command->add_option("--prompt-file", arguments->prompt_file, "file with the text to continue")
      ->excludes(text);
  command->add_option("--max-new-tokens", arguments->max_new_tokens, "tokens to add at most")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--temperature", sampling.temperature, "0 takes the likeliest token")
      ->capture_default_str();
  command->add_option("--top-k", sampling.top_k, "keep the k likeliest tokens; 0 keeps all")
      ->capture_default_str();
  command->add_option("--top-p", sampling.top_p, "keep the likeliest tokens up to this mass")
      ->capture_default_str();
  command->add_option("--min-p", sampling.min_p, "drop tokens below this share of the likeliest")
      ->capture_default_str();
  command->add_option("--repetition-penalty", sampling.repetition_penalty, "above 1 repeats less")
      ->capture_default_str();
  command->add_option("--seed", sampling.seed, "of the draws")->capture_default_str();
  command->add_option("--stop", arguments->stop, "end before this text; may be repeated");
  command->add_flag("--json", arguments->json, "one JSON object instead of streamed text");
  command->callback([arguments] { run_generate(*arguments); });
}

} // namespace baton
