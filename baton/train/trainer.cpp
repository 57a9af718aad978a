// SPDX-License-Identifier: Apache-2.0
#include "baton/train/trainer.h"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/base/log.h"
#include "baton/base/progress.h"
#include "baton/base/version.h"
#include "baton/checkpoint/save.h"
#include "baton/ops/device.h"
#include "baton/train/evaluation.h"
#include "baton/train/model_source.h"

namespace baton::train {
namespace {

using Clock = std::chrono::steady_clock;

/// The recipe with what the tokenizer decides filled in, and the process set up as it says.
Recipe prepared(Recipe recipe, const Tokenizer& tokenizer) {
  const std::int64_t needed = tokenizer.vocab_size();
  if (recipe.model.vocabulary == 0) {
    recipe.model.vocabulary = padded_vocab_size(needed);
  }
  if (recipe.model.vocabulary < needed) {
    throw Error(
        "recipe: model.vocabulary is smaller than the tokenizer's: " +
        std::to_string(recipe.model.vocabulary) + " vs " + std::to_string(needed));
  }
  if (recipe.run.threads > 0) {
    at::set_num_threads(static_cast<int>(recipe.run.threads));
  }
  ops::set_arithmetic(recipe.train.deterministic);
  return recipe;
}

/// What each checkpoint holds a copy of.
std::map<std::string, std::string> read_files(const Tokenizer& tokenizer) {
  std::map<std::string, std::string> files;
  for (const std::string& path : tokenizer.files()) {
    files[std::filesystem::path(path).filename().string()] = read_file(path);
  }
  return files;
}

/// The run's newest whole checkpoint, or none where it is to start.
std::optional<checkpoint::Checkpoint> newest_checkpoint(const std::string& folder, Resume resume) {
  std::optional<checkpoint::Checkpoint> newest =
      checkpoint::open_newest(folder, checkpoint::Scope::kWhole, log_warning);
  if (!newest && resume == Resume::kMust) {
    throw Error(folder + ": holds no checkpoint to resume from");
  }
  if (newest && resume == Resume::kNever) {
    throw Error(
        folder + ": already holds a checkpoint (" + newest->folder().string() +
        "); choose another run.folder or resume");
  }
  return newest;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string progress_note(const StepMetrics& metrics) {
  char text[64];
  std::snprintf(text, sizeof(text), "loss %.4f", metrics.loss);
  std::string note = text;
  if (metrics.valid_loss) {
    std::snprintf(text, sizeof(text), " valid %.4f", *metrics.valid_loss);
    note += text;
  }
  return note;
}

} // namespace

Trainer::Trainer(const Recipe& recipe, Resume resume)
    : device_(ops::open_device(recipe.run.device, "run.device")),
      tokenizer_(make_tokenizer(recipe.data.tokenizer)),
      recipe_(prepared(recipe, *tokenizer_)),
      tokenizer_files_(read_files(*tokenizer_)),
      schedule_(recipe_.train.schedule, recipe_.train.steps) {
  const auto blend =
      std::make_shared<const Blend>(open_blend(recipe_.data.train, recipe_.data.weights));
  has_mask_ = blend->has_mask();
  loader_ = std::make_unique<Loader>(
      blend,
      LoaderConfig{
          .tokens_per_microbatch = recipe_.data.tokens_per_microbatch,
          .vocab_size = recipe_.model.vocabulary,
          .seed = static_cast<std::uint64_t>(recipe_.run.seed)});
  if (!recipe_.data.valid.empty()) {
    valid_ = std::make_shared<const IndexedDataset>(recipe_.data.valid);
  }
  const auto newest = newest_checkpoint(recipe_.run.folder, resume);
  make_model(newest);
  if (newest) {
    loader_->restore(loader_state_from_json(newest->train_state().at("loader").dump()));
    log_info("resuming from " + newest->folder().string());
  }
  log_ = std::make_unique<RunLog>(recipe_.run.folder, step_);
  data_log_ = std::make_unique<DataLog>(blend, loader_->state());
}

void Trainer::make_model(const std::optional<checkpoint::Checkpoint>& newest) {
  if (newest && recipe_.model.dtype == "auto") {
    // A run that moves to another kind of device keeps the numbers that it has.
    recipe_.model.dtype = parse_recipe(newest->recipe(), newest->folder().string()).model.dtype;
  }
  recipe_.model.settle_dtype(device_);
  model_ = std::make_unique<model::HybridModel>(recipe_.model);
  nn::ParameterStore& parameters = model_->parameters();
  const at::ScalarType dtype = recipe_.model.scalar_type();
  if (newest) {
    parameters.allocate(dtype, device_);
    newest->read_parameters(nn::parameter_tensors(parameters));
  } else if (!recipe_.run.start_from.empty()) {
    parameters.allocate(dtype, device_);
    open_model(recipe_.run.start_from).read_parameters(nn::parameter_tensors(parameters));
  } else {
    parameters.initialize(static_cast<std::uint64_t>(recipe_.run.seed), dtype, device_);
  }
  optimizer_ = std::make_unique<AdamW>(parameters, recipe_.train.optimizer);
  if (newest) {
    const NamedTensors state = optimizer_->state();
    newest->read_optimizer_states({state.begin(), state.end()});
    step_ = saved_at_ = newest->step();
    optimizer_->load(state, step_);
  }
}

RunResult Trainer::run(const std::atomic<bool>& stop) {
  log_info(
      "model " + recipe_.model.pattern + ": " +
      count_text(static_cast<double>(model_->parameters().num_values())) + " parameters in " +
      recipe_.model.dtype + " on " + device_.str());
  if (!device_.is_cpu()) {
    warm_up();
  }
  Progress progress(
      {.label = "train",
       .unit = "steps",
       .total = recipe_.train.steps,
       .first = step_,
       .rate_unit = "tokens",
       .rate_scale = recipe_.train.tokens_per_step});
  RunResult result;
  while (step_ < recipe_.train.steps && !stop) {
    StepMetrics metrics = train_step();
    const bool last = step_ == recipe_.train.steps;
    if (valid_ && (last || due(recipe_.train.eval_interval))) {
      metrics.valid_loss = result.valid_loss = evaluate();
    }
    log_->append(metrics);
    data_log_->update(loader_->state(), step_);
    progress.update(step_, progress_note(metrics));
    if (last || due(recipe_.checkpoint.interval)) {
      save();
    }
  }
  progress.finish();
  if (saved_at_ != step_) {
    save();
  }
  data_log_->finish(loader_->state());
  log_->draw_curve();
  result.steps = step_;
  result.complete = step_ == recipe_.train.steps;
  return result;
}

// A step on tokens that count for nothing, but for its update: afterwards every kernel of a step is
// compiled and on the device, and its memory has been found to suffice.
void Trainer::warm_up() {
  const auto start = Clock::now();
  const std::int64_t tokens = recipe_.data.tokens_per_microbatch;
  Microbatch microbatch;
  microbatch.tokens_T = at::zeros({tokens}, at::kLong);
  microbatch.labels_T = at::zeros({tokens}, at::kLong);
  if (has_mask_) {
    microbatch.mask_T = at::ones({tokens}, at::kFloat);
  }
  microbatch.layout = make_layout_from_lengths({tokens - tokens / 2, tokens / 2});
  // Of several microbatches the second adds to the gradients of the first.
  const auto count =
      static_cast<std::size_t>(std::min<std::int64_t>(2, recipe_.microbatches_per_step()));
  accumulate_gradients(
      std::vector<Microbatch>(count, microbatch), 1.0 / static_cast<double>(tokens));
  squares_of(gradients(model_->parameters())).cpu();
  clear_gradients(model_->parameters());
  optimizer_->load_kernels();
  if (valid_) {
    evaluate_microbatch(*model_, microbatch.to(device_)).cpu();
  }
  char text[64];
  std::snprintf(text, sizeof(text), "kernels loaded in %.1f s", seconds_since(start));
  log_info(text);
}

bool Trainer::due(std::int64_t interval) const {
  return interval > 0 && step_ % interval == 0;
}

StepMetrics Trainer::train_step() {
  const auto start = Clock::now();
  std::vector<Microbatch> microbatches;
  std::int64_t targets = 0;
  for (std::int64_t i = 0; i < recipe_.microbatches_per_step(); ++i) {
    microbatches.push_back(loader_->next());
    targets += microbatches.back().targets;
  }
  // A step whose tokens are all masked has a zero gradient, not a division by zero.
  const double scale = 1.0 / static_cast<double>(std::max<std::int64_t>(targets, 1));
  clear_gradients(model_->parameters());
  const at::Tensor loss_sum = accumulate_gradients(microbatches, scale);
  const std::vector<at::Tensor> step_gradients = gradients(model_->parameters());
  // The one place where a step waits for the device: the loss is printed, and a gradient that is
  // not finite must not reach the parameters.
  const at::Tensor measured = at::cat({loss_sum.view(1), squares_of(step_gradients)}).cpu();
  const double loss = measured[0].item<double>();
  if (!std::isfinite(loss)) {
    throw RunError(
        "step " + std::to_string(step_ + 1) + ": the loss is " + std::to_string(loss) +
        "; the last checkpoint is whole, lower train.lr or look at the data");
  }
  const double lr = schedule_.lr(step_);
  const StepReport report = optimizer_->step({.lr = lr}, step_gradients, measured.slice(0, 1));
  ++step_;
  return {
      .step = step_,
      .loss = loss,
      .lr = lr,
      .grad_norm = report.grad_norm,
      .tokens_per_second =
          static_cast<double>(recipe_.train.tokens_per_step) / seconds_since(start)};
}

/// Adds to the gradients those of `scale` times the summed loss. Returns that loss, fp64 on the
/// device.
at::Tensor Trainer::accumulate_gradients(
    const std::vector<Microbatch>& microbatches,
    double scale) {
  at::Tensor loss = at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(device_));
  for (const Microbatch& host : microbatches) {
    const Microbatch microbatch = host.to(device_);
    const nn::StepContext context = training_context(microbatch);
    const at::Tensor hidden_TD = model_->hidden(microbatch.tokens_T, context);
    const nn::LossOutput output = model_->loss(hidden_TD, microbatch.labels_T, microbatch.mask_T);
    const at::Tensor scaled = output.loss_sum * scale;
    scaled.backward();
    loss += scaled.detach();
  }
  return loss;
}

nn::StepContext Trainer::training_context(const Microbatch& microbatch) const {
  return {
      .layout = microbatch.layout,
      .positions_T = microbatch.layout.positions(),
      .dropout = true,
      .random_key = RandomKey(static_cast<std::uint64_t>(recipe_.run.seed))
                        .with("dropout")
                        .with(static_cast<std::uint64_t>(microbatch.index))};
}

double Trainer::evaluate() {
  return train::evaluate(
             *model_,
             valid_,
             {.tokens_per_microbatch = recipe_.data.tokens_per_microbatch,
              .max_tokens = recipe_.train.eval_tokens})
      .loss();
}

void Trainer::save() {
  log_->sync();
  const NamedTensors state = optimizer_->state();
  checkpoint::save_checkpoint(
      {.step = step_,
       .program = kVersion,
       .parameters = nn::parameter_tensors(model_->parameters()),
       .optimizer_states = {state.begin(), state.end()},
       .train_state = {{"loader", nlohmann::json::parse(to_json(loader_->state()))}},
       .recipe = config_to_toml(recipe_),
       .tokenizer_files = tokenizer_files_},
      {.run_folder = recipe_.run.folder,
       .keep_last = static_cast<int>(recipe_.checkpoint.keep),
       .log = log_warning});
  saved_at_ = step_;
}

} // namespace baton::train
