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
#include "apps/device_memory.h"
#include "baton/base/config_text.h"
#include "baton/base/log.h"
#include "baton/parallel/launch.h"
#include "baton/parallel/mesh.h"
#include "baton/parallel/peer_error.h"
#include "baton/train/ranks.h"
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
  std::string device;
  std::string resume = "auto";
};

/// What makes a step need less memory, from what the recipe says now.
std::string memory_advice(const train::Recipe& recipe) {
  std::string advice = "lower data.tokens_per_microbatch (" +
                       std::to_string(recipe.data.tokens_per_microbatch) + ")";
  if (recipe.model.dtype == "fp32") {
    return advice + " or set model.dtype to bf16";
  }
  if (recipe.train.optimizer.master_weights) {
    advice += " or set train.master_weights to false";
  }
  return advice;
}

train::RunResult
run_rank(const train::Recipe& recipe, train::Resume resume, const parallel::Launch& launch) {
  const at::Device device = train::open_rank_device(recipe, launch);
  const parallel::Mesh mesh = train::open_mesh(recipe, launch, device);
  try {
    return train::Trainer(recipe, resume, mesh, device).run(stop_requested);
  } catch (const parallel::PeerError&) {
    mesh.say_why_stopping(""); // the other rank has said it
    throw;
  } catch (const std::exception& error) {
    const std::string message = error.what();
    mesh.say_why_stopping(message.substr(0, message.find('\n')));
    throw;
  }
}

void print(const train::RunResult& result, const train::Recipe& recipe) {
  std::printf(
      "%s after %lld of %lld steps\n",
      result.complete ? "complete" : "stopped",
      static_cast<long long>(result.steps),
      static_cast<long long>(recipe.train.steps));
  if (result.valid_loss) {
    std::printf("held-out loss: %.4f nats a token\n", *result.valid_loss);
  }
}

void run_train(const TrainArguments& arguments) {
  std::vector<std::string> assignments = arguments.assignments;
  if (!arguments.device.empty()) {
    assignments.push_back("run.device=" + arguments.device);
  }
  const train::Recipe recipe = train::read_recipe(arguments.recipe, assignments);
  const train::Resume resume = arguments.resume == "never"  ? train::Resume::kNever
                               : arguments.resume == "must" ? train::Resume::kMust
                                                            : train::Resume::kAuto;
  std::signal(SIGTERM, request_stop);
  std::signal(SIGINT, request_stop);
  const parallel::Launch launch = parallel::read_launch();
  if (launch.rank > 0) {
    set_log_name("rank " + std::to_string(launch.rank));
  }
  const train::RunResult result =
      explaining_memory([&] { return run_rank(recipe, resume, launch); }, memory_advice(recipe));
  if (launch.rank == 0) {
    print(result, recipe);
  }
}

} // namespace

void add_train_command(CLI::App& app) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = app.add_subcommand("train", "train a model as a recipe says");
  command->add_option("recipe", arguments->recipe, "TOML file")->required();
  command->add_option(
      "--set", arguments->assignments, "override a key: KEY=VALUE; may be repeated");
  command->add_option("--device", arguments->device, "the same as --set run.device=...");
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
