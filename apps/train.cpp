// SPDX-License-Identifier: Apache-2.0
// baton train: a run from its recipe.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "baton/base/config_text.h"
#include "baton/train/read_recipe.h"
#include "baton/train/trainer.h"

namespace baton {
namespace {

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler writes it");

/// The first signal asks for a clean end; a second one ends the process as usual.
extern "C" void request_stop(int signal) {
  stop_requested = true;
  std::signal(signal, SIG_DFL);
}

struct TrainArguments {
  std::string recipe;
  std::vector<std::string> assignments;
  std::string resume = "auto";
};

void run_train(const TrainArguments& arguments) {
  const train::Recipe recipe = train::read_recipe(arguments.recipe, arguments.assignments);
  const train::Resume resume = arguments.resume == "never"  ? train::Resume::kNever
                               : arguments.resume == "must" ? train::Resume::kMust
                                                            : train::Resume::kAuto;
  std::signal(SIGTERM, request_stop);
  std::signal(SIGINT, request_stop);
  train::Trainer trainer(recipe, resume);
  const train::RunResult result = trainer.run(stop_requested);
  std::printf(
      "%s after %lld of %lld steps\n",
      result.complete ? "complete" : "stopped",
      static_cast<long long>(result.steps),
      static_cast<long long>(recipe.train.steps));
  if (result.valid_loss) {
    std::printf("held-out loss: %.4f nats a token\n", *result.valid_loss);
  }
}

} // namespace

void add_train_command(CLI::App& app) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = app.add_subcommand("train", "train a model as a recipe says");
  command->add_option("recipe", arguments->recipe, "TOML file")->required();
  command->add_option(
      "--set", arguments->assignments, "override a key: KEY=VALUE; may be repeated");
  command->add_option("--resume", arguments->resume, "what to do with checkpoints in run.folder")
      ->check(CLI::IsMember({"never", "auto", "must"}))
      ->capture_default_str();
  command->footer([] {
    train::Recipe defaults;
    return "Keys of a recipe, with their defaults:\n" + print_help(config_fields(defaults));
  });
  command->callback([arguments] { run_train(*arguments); });
}

} // namespace baton
