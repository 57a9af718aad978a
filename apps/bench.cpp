// SPDX-License-Identifier: Apache-2.0
// baton bench: what a model of a recipe costs on the CPU or a GPU, beside what its matrix products
// and its reads of memory alone cost there.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/cpu/Utils.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/device_memory.h"
#include "baton/base/error.h"
#include "baton/infer/engine.h"
#include "baton/infer/program.h"
#include "baton/infer/state_cache.h"
#include "baton/model/hybrid_model.h"
#include "baton/ops/device.h"
#include "baton/train/optimizer.h"
#include "baton/train/read_recipe.h"

namespace baton {
namespace {

constexpr std::int64_t kReadBytes = std::int64_t{1} << 28; // far more than any cache
constexpr std::int64_t kTokensPerRead = 32; // a read empties the caches for the tokens behind it
constexpr std::int64_t kPageSize = 64;
constexpr double kBytesPerMegabyte = 1e6;

struct BenchArguments {
  std::string recipe;
  std::vector<std::string> assignments;
  std::int64_t tokens = 1024;
  std::int64_t repeats = 7;
  std::int64_t decode_tokens = 64;
  bool json = false;
};

/// Waits for all that a GPU has been given: a copy to the host comes last.
void finish_work(c10::Device device) {
  if (!device.is_cpu()) {
    at::zeros({1}, device).cpu();
  }
}

double seconds_of(c10::Device device, const std::function<void()>& work) {
  finish_work(device);
  const auto start = std::chrono::steady_clock::now();
  work();
  finish_work(device);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// The matrices of all products with a token's channels.
std::vector<at::Tensor> product_weights(const model::HybridModel& model) {
  std::vector<at::Tensor> weights;
  for (const nn::Parameter& parameter : model.parameters().parameters()) {
    const std::string& name = parameter.spec.name;
    const bool lookup = name == "embedding.weight" && !model.config().tied;
    const bool convolution = name.find("conv") != std::string::npos;
    if (parameter.value.dim() == 2 && !lookup && !convolution) {
      weights.push_back(parameter.value.detach());
    }
  }
  return weights;
}

/// The products of a training step alone, as ATen does them: y, dx and dW of every matrix. On a CPU
/// without bf16 units bf16 runs in fp32, because ATen's own way is slower there.
class DenseProducts {
 public:
  DenseProducts(const model::HybridModel& model, std::int64_t tokens) {
    const auto capabilities = at::cpu::get_cpu_capabilities();
    const auto units = capabilities.find("avx512_bf16");
    const bool has_units = units != capabilities.end() && units->second.toBool();
    for (const at::Tensor& weight : product_weights(model)) {
      const bool widen = weight.is_cpu() && weight.scalar_type() == at::kBFloat16 && !has_units;
      const at::Tensor w = widen ? weight.to(at::kFloat) : weight;
      at::Tensor x = at::randn({tokens, w.size(1)}, w.options());
      at::Tensor y = at::randn({tokens, w.size(0)}, w.options());
      sets_.push_back({w, x, y, at::empty_like(y), at::empty_like(x), at::empty_like(w)});
    }
  }

  void run() {
    const at::InferenceMode inference;
    for (Set& set : sets_) {
      at::mm_out(set.y_out, set.x, set.weight.t());
      at::mm_out(set.dx_out, set.dy, set.weight);
      at::mm_out(set.dweight_out, set.dy.t(), set.x);
    }
  }

 private:
  struct Set {
    at::Tensor weight, x, dy, y_out, dx_out, dweight_out;
  };
  std::vector<Set> sets_;
};

struct TrainFigures {
  double first_step = 0.0; ///< seconds
  double step = 0.0;
  double products = 0.0;
};

at::Tensor random_ids(const model::HybridModel& model, std::int64_t count) {
  return at::randint(0, model.config().vocabulary, {count}, at::kLong);
}

class TrainStep {
 public:
  TrainStep(model::HybridModel& model, const train::Recipe& recipe, std::int64_t tokens)
      : model_(model),
        optimizer_(model.parameters(), recipe.train.optimizer),
        layout_(make_layout_from_lengths({tokens}).to(model.device())),
        positions_T_(layout_.positions()),
        tokens_T_(random_ids(model, tokens).to(model.device())),
        labels_T_(random_ids(model, tokens).to(model.device())) {}

  /// As the start of a run does it: everything but the update.
  void load_kernels() {
    find_gradients();
    optimizer_.checked_norm(train::gradients(model_.parameters()));
    optimizer_.load_kernels();
  }

  void run() {
    find_gradients();
    optimizer_.step({.lr = 1e-4}, train::gradients(model_.parameters()));
  }

 private:
  void find_gradients() {
    train::clear_gradients(model_.parameters());
    const nn::StepContext context{.layout = layout_, .positions_T = positions_T_};
    const at::Tensor hidden_TD = model_.hidden(tokens_T_, context);
    const nn::LossOutput output = model_.loss(hidden_TD, labels_T_, std::nullopt);
    (output.loss_sum / static_cast<double>(tokens_T_.size(0))).backward();
  }

  model::HybridModel& model_;
  train::AdamW optimizer_;
  SequenceLayout layout_;
  at::Tensor positions_T_;
  at::Tensor tokens_T_;
  at::Tensor labels_T_;
};

TrainFigures measure_training(
    model::HybridModel& model,
    const train::Recipe& recipe,
    const BenchArguments& arguments) {
  TrainStep step(model, recipe, arguments.tokens);
  DenseProducts products(model, arguments.tokens);
  const c10::Device device = model.device();
  if (!device.is_cpu()) {
    step.load_kernels();
  }
  TrainFigures figures;
  figures.first_step = seconds_of(device, [&] { step.run(); });
  std::vector<double> steps;
  std::vector<double> alone;
  // In turns, so that what else the machine does falls on both.
  for (std::int64_t i = 0; i < arguments.repeats; ++i) {
    alone.push_back(seconds_of(device, [&] { products.run(); }));
    steps.push_back(seconds_of(device, [&] { step.run(); }));
  }
  figures.step = median(steps);
  figures.products = median(alone);
  return figures;
}

/// Sums of a large tensor, which all threads together read as fast as the memory gives it.
class MemoryReads {
 public:
  explicit MemoryReads(c10::Device device) : values_(at::ones({kReadBytes / 4}, device)) {}

  void run() {
    seconds_.push_back(seconds_of(values_.device(), [&] { at::sum(values_); }));
  }

  /// Bytes a second of the middle one.
  double rate() const { return static_cast<double>(kReadBytes) / median(seconds_); }

 private:
  at::Tensor values_;
  std::vector<double> seconds_;
};

struct DecodeFigures {
  double first_prompt = 0.0; ///< seconds of the first prompt of a process
  double prompt = 0.0;       ///< of a later one of the same length
  double first_token = 0.0;  ///< of the first token behind a prompt
  double token = 0.0;
  double bytes = 0.0; ///< that a token must read: all matrices
  double rate = 0.0;  ///< bytes a second
};

std::vector<std::int64_t> random_tokens(const model::HybridModel& model, std::int64_t count) {
  const at::Tensor ids = random_ids(model, count);
  return {ids.const_data_ptr<std::int64_t>(), ids.const_data_ptr<std::int64_t>() + count};
}

DecodeFigures measure_decoding(const model::HybridModel& model, const BenchArguments& arguments) {
  const c10::Device device = model.device();
  if (!device.is_cpu()) {
    infer::Engine(model).load_kernels(); // as a program does before its first prompt
  }
  const std::int64_t length = arguments.tokens + arguments.decode_tokens;
  infer::StateCache cache(
      model.states(),
      {.num_slots = 1,
       .num_pages = infer::pages_needed(1, length, kPageSize),
       .page_size = kPageSize,
       .device = device});
  infer::Program program(model, cache);
  const std::vector<std::int64_t> prompt = random_tokens(model, arguments.tokens);
  DecodeFigures figures;
  for (double* seconds : {&figures.first_prompt, &figures.prompt}) {
    const std::int32_t slot = cache.acquire();
    *seconds = seconds_of(device, [&] { program.last_logits({{.slot = slot, .tokens = prompt}}); });
    cache.release(slot);
  }
  const std::int32_t slot = cache.acquire();
  program.last_logits({{.slot = slot, .tokens = prompt}});
  MemoryReads reads(device);
  reads.run(); // warm
  std::vector<double> seconds;
  for (std::int64_t i = 0; i < arguments.decode_tokens; ++i) {
    const std::int64_t token = i % model.config().vocabulary;
    seconds.push_back(
        seconds_of(device, [&] { program.last_logits({{.slot = slot, .tokens = {token}}}); }));
    // In turns, so that what else the machine does falls on both.
    if (i % kTokensPerRead == 0) {
      reads.run();
    }
  }
  figures.first_token = seconds.front();
  figures.token = median(seconds);
  figures.rate = reads.rate();
  for (const at::Tensor& weight : product_weights(model)) {
    figures.bytes += static_cast<double>(weight.nbytes());
  }
  return figures;
}

void print_figures(
    const model::HybridModel& model,
    const BenchArguments& arguments,
    const TrainFigures& train,
    const DecodeFigures& decode) {
  const double floor = decode.bytes / decode.rate;
  const auto tokens = static_cast<double>(arguments.tokens);
  const nlohmann::ordered_json figures{
      {"pattern", model.config().pattern},
      {"parameters", model.parameters().num_values()},
      {"dtype", model.config().dtype},
      {"device", model.device().str()},
      {"threads", at::get_num_threads()},
      {"tokens", arguments.tokens},
      {"train_tokens_per_second", tokens / train.step},
      {"train_step_seconds", train.step},
      {"train_products_seconds", train.products},
      {"train_step_over_products", train.step / train.products},
      {"first_step_over_step", train.first_step / train.step},
      {"prefill_tokens_per_second", tokens / decode.prompt},
      {"first_prefill_over_prefill", decode.first_prompt / decode.prompt},
      {"first_token_over_token", decode.first_token / decode.token},
      {"decode_milliseconds", 1e3 * decode.token},
      {"decode_megabytes", decode.bytes / kBytesPerMegabyte},
      {"read_megabytes_per_second", decode.rate / kBytesPerMegabyte},
      {"decode_share_of_read_rate", floor / decode.token}};
  if (arguments.json) {
    std::printf("%s\n", figures.dump().c_str());
    return;
  }
  for (const auto& [name, value] : figures.items()) {
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    std::printf("%-28s %s\n", name.c_str(), text.c_str());
  }
}

void run_bench(const BenchArguments& arguments) {
  const train::Recipe recipe = train::read_recipe(arguments.recipe, arguments.assignments);
  if (recipe.model.vocabulary == 0) {
    throw Error(arguments.recipe + ": model.vocabulary must be given for a benchmark");
  }
  if (recipe.run.threads > 0) {
    at::set_num_threads(static_cast<int>(recipe.run.threads));
  }
  const c10::Device device = ops::open_device(recipe.run.device, "run.device");
  ops::set_arithmetic(recipe.train.deterministic);
  explaining_memory(
      [&] {
        model::HybridModel model(recipe.model);
        model.parameters().initialize(
            static_cast<std::uint64_t>(recipe.run.seed), recipe.model.scalar_type(), device);
        const TrainFigures train = measure_training(model, recipe, arguments);
        train::clear_gradients(model.parameters());
        print_figures(model, arguments, train, measure_decoding(model, arguments));
      },
      "a smaller --tokens takes less");
}

} // namespace

void add_bench_command(CLI::App& app) {
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* command =
      app.add_subcommand("bench", "time training and decoding of a recipe's model on this machine");
  command->add_option("recipe", arguments->recipe, "TOML file")->required();
  command->add_option(
      "--set", arguments->assignments, "override a key: KEY=VALUE; may be repeated");
  command->add_option("--tokens", arguments->tokens, "tokens of a step and of a prompt")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--repeats", arguments->repeats, "timed steps; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--decode-tokens", arguments->decode_tokens, "timed tokens of decoding")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "one JSON object");
  command->callback([arguments] { run_bench(*arguments); });
}

} // namespace baton
