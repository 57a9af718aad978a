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
#include "baton/parallel/peer_error.h"
#include "baton/train/copies_check.h"
#include "baton/train/evaluation.h"
#include "baton/train/model_ranks.h"
#include "baton/train/model_source.h"
#include "baton/train/run_tensors.h"

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

Trainer::Trainer(const Recipe& recipe, Resume resume, const parallel::Mesh& mesh, at::Device device)
    : mesh_(mesh),
      device_(device),
      tokenizer_(make_tokenizer(recipe.data.tokenizer)),
      recipe_(prepared(recipe, *tokenizer_)),
      tokenizer_files_(read_files(*tokenizer_)),
      schedule_(recipe_.train.schedule, recipe_.train.steps),
      rules_(parallel::context_rules(recipe_.parallel)) {
  const auto blend =
      std::make_shared<const Blend>(open_blend(recipe_.data.train, recipe_.data.weights));
  has_mask_ = blend->has_mask();
  make_loader(blend);
  if (!recipe_.data.valid.empty()) {
    valid_ = std::make_shared<const IndexedDataset>(recipe_.data.valid);
  }
  const auto newest = newest_checkpoint(recipe_.run.folder, resume);
  make_model(newest);
  if (newest) {
    loader_->restore(loader_state_from_json(newest->train_state().at("loader").dump()));
    log_info("resuming from " + newest->folder().string());
  }
  // Other data, or another checkpoint to go on from.
  mesh_.check_same("place in the data", to_json(loader_->state()));
  if (is_first()) {
    log_ = std::make_unique<RunLog>(recipe_.run.folder, step_);
    data_log_ = std::make_unique<DataLog>(blend, loader_->state());
  }
}

void Trainer::make_loader(const std::shared_ptr<const Blend>& blend) {
  loader_ = std::make_unique<Loader>(
      blend,
      LoaderConfig{
          .tokens_per_microbatch = recipe_.data.tokens_per_microbatch,
          .vocab_size = recipe_.model.vocabulary,
          .seed = static_cast<std::uint64_t>(recipe_.run.seed),
          .rank = mesh_.coordinate(parallel::Axis::kData),
          .count = mesh_.shape().along(parallel::Axis::kData),
          .block = own_microbatches()});
}

std::int64_t Trainer::own_microbatches() const {
  return recipe_.microbatches_per_step() / mesh_.shape().along(parallel::Axis::kData);
}

void Trainer::make_model(const std::optional<checkpoint::Checkpoint>& newest) {
  if (newest && recipe_.model.dtype == "auto") {
    // A run that moves to another kind of device keeps the numbers that it has.
    recipe_.model.dtype = parse_recipe(newest->recipe(), newest->folder().string()).model.dtype;
  }
  recipe_.model.settle_dtype(device_);
  recipe_.model.pattern = model::resolve_pipes(recipe_.model, pipeline_cut(recipe_));
  model_ = train::make_model(recipe_, mesh_);
  share_ = std::make_unique<const model::ModelShare>(*model_);
  nn::ParameterStore& parameters = model_->parameters();
  const at::ScalarType dtype = recipe_.model.scalar_type();
  if (newest) {
    parameters.allocate(dtype, device_);
    newest->read_parameter_slices(held_parameters(*share_));
  } else if (!recipe_.run.start_from.empty()) {
    parameters.allocate(dtype, device_);
    read_start_values(*share_, open_model(recipe_.run.start_from));
  } else {
    parameters.initialize(static_cast<std::uint64_t>(recipe_.run.seed), dtype, device_);
  }
  make_optimizer();
  if (newest) {
    newest->read_optimizer_states(held_states(*share_, *optimizer_));
    step_ = saved_at_ = newest->step();
    optimizer_->load(optimizer_->state(), step_);
  }
}

void Trainer::make_optimizer() {
  const nn::ParameterStore& parameters = model_->parameters();
  std::vector<at::Tensor> values;
  std::vector<std::string> names;
  for (const nn::Parameter& parameter : parameters.parameters()) {
    values.push_back(parameter.value);
    names.push_back(parameter.spec.name);
  }
  const parallel::Group& replicas = mesh_.replicas();
  gradients_ = std::make_unique<parallel::GradBuckets>(
      values,
      names,
      mesh_,
      parallel::BucketConfig{
          .same_sums = recipe_.train.deterministic_reduce, .classes = bucket_classes(*model_)});
  const parallel::BucketPlan& plan = gradients_->plan();
  flat_ = std::make_unique<parallel::FlatParameters>(values, plan, replicas);
  optimizer_ = std::make_unique<AdamW>(
      parameters,
      recipe_.train.optimizer,
      OwnedValues{
          .slices = plan.owned_by(replicas.rank()),
          .num_buckets = plan.buckets().size(),
          .replicas = replicas});
  reduction_ = std::make_unique<StepReduction>(*gradients_, *share_, mesh_, device_);
}

RunResult Trainer::run(const std::atomic<bool>& stop) {
  log_info(
      "model " + recipe_.model.pattern + ": " +
      count_text(static_cast<double>(share_->num_values())) + " parameters in " +
      recipe_.model.dtype + " on " + device_.str());
  if (recipe_.parallel.pp > 1) {
    log_info(pipeline_text(recipe_, own_microbatches()));
  }
  if (!device_.is_cpu()) {
    warm_up();
  }
  Progress progress(
      {.label = "train",
       .unit = "steps",
       .total = recipe_.train.steps,
       .first = step_,
       .rate_unit = "tokens",
       .rate_scale = recipe_.train.tokens_per_step},
      is_first() ? default_progress_style() : ProgressStyle::kOff);
  RunResult result;
  // One of several ranks stops when it has heard from all that they do.
  while (step_ < recipe_.train.steps && !stopping_ && (mesh_.size() > 1 || !stop)) {
    StepMetrics metrics = train_step(stop);
    const bool last = step_ == recipe_.train.steps;
    if (valid_ && (last || due(recipe_.train.eval_interval))) {
      metrics.valid_loss = result.valid_loss = evaluate();
    }
    report(metrics);
    progress.update(step_, progress_note(metrics));
    if (due(recipe_.parallel.check_interval)) {
      check_parameters();
    }
    if (last || due(recipe_.checkpoint.interval)) {
      save();
    }
  }
  progress.finish();
  report_imbalance();
  if (saved_at_ != step_) {
    save();
  }
  if (is_first()) {
    data_log_->finish(loader_->state());
    log_->draw_curve();
  }
  result.steps = step_;
  result.complete = step_ == recipe_.train.steps;
  return result;
}

void Trainer::report(const StepMetrics& metrics) {
  if (is_first()) {
    log_->append(metrics);
    data_log_->update(loader_->state(), step_);
  }
}

// What packs of documents cost beside one long document, which is balanced.
void Trainer::report_imbalance() const {
  if (shared_ > 0 && recipe_.model.pattern.find('*') != std::string::npos &&
      rules_.strategy == parallel::ContextStrategy::kBaton) {
    char text[128];
    std::snprintf(
        text,
        sizeof(text),
        "attention: the busiest cp rank had %.2f times the mean work",
        imbalance_ / static_cast<double>(shared_));
    log_info(text);
  }
}

void Trainer::check_parameters() const {
  try {
    check_copies(*model_, mesh_);
  } catch (const parallel::PeerError&) {
    throw;
  } catch (const RunError& error) {
    throw RunError("step " + std::to_string(step_) + ": " + error.what());
  }
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
  // Of several microbatches the second adds to the gradients of the first; a pipeline takes a
  // group.
  const auto count = static_cast<std::size_t>(
      std::min(std::max<std::int64_t>(2, recipe_.parallel.pp), own_microbatches()));
  microbatch.targets = tokens;
  const std::vector<at::Tensor> losses =
      accumulate_gradients(std::vector<Microbatch>(count, microbatch), /*with_messages=*/false);
  reduction_->sum({.losses = losses, .microbatches = static_cast<std::int64_t>(count)});
  optimizer_->load_kernels();
  if (valid_) {
    evaluate_microbatches(*model_, {tokens_of_rank(microbatch, mesh_, rules_, device_)}, mesh_)
        .front()
        .cpu();
  }
  char text[64];
  std::snprintf(text, sizeof(text), "kernels loaded in %.1f s", seconds_since(start));
  log_info(text);
}

bool Trainer::due(std::int64_t interval) const {
  return interval > 0 && step_ % interval == 0;
}

StepMetrics Trainer::train_step(const std::atomic<bool>& stop) {
  const auto start = Clock::now();
  std::vector<Microbatch> microbatches;
  for (std::int64_t i = 0; i < own_microbatches(); ++i) {
    microbatches.push_back(loader_->next());
  }
  const std::vector<at::Tensor> losses = accumulate_gradients(microbatches);
  // The one place where a step waits for the device: the loss is printed, and a gradient that is
  // not finite must not reach the parameters.
  const StepSums sums = reduction_->sum(
      {.losses = losses,
       .first = own_microbatches() * mesh_.coordinate(parallel::Axis::kData),
       .microbatches = recipe_.microbatches_per_step(),
       .stop = stop});
  stopping_ = mesh_.size() > 1 && sums.stop;
  if (!std::isfinite(sums.loss)) {
    throw RunError(
        "step " + std::to_string(step_ + 1) + ": the loss is " + std::to_string(sums.loss) +
        "; the last checkpoint is whole, lower train.lr or look at the data");
  }
  const double lr = schedule_.lr(step_);
  const StepReport report = update(sums, lr);
  ++step_;
  return {
      .step = step_,
      .loss = sums.loss,
      .lr = lr,
      .grad_norm = report.grad_norm,
      .tokens_per_second =
          static_cast<double>(recipe_.train.tokens_per_step) / seconds_since(start)};
}

/// Updates the values that this rank owns, and sends each bucket of them to the others while it
/// updates the next.
StepReport Trainer::update(const StepSums& sums, double lr) {
  const double norm = reduction_->checked_norm(sums);
  const StepReport report =
      optimizer_->step({.lr = lr}, own_gradients(), norm, [this](std::size_t bucket) {
        flat_->start_gather(bucket);
      });
  flat_->wait();
  return report;
}

/// One over the labels of the step that count, on all ranks: fp64 on the device, not waited for.
at::Tensor Trainer::loss_scale(const std::vector<Microbatch>& microbatches) const {
  std::int64_t targets = 0;
  for (const Microbatch& microbatch : microbatches) {
    targets += microbatch.targets;
  }
  const at::Tensor all = at::full(
      {}, static_cast<double>(targets), at::TensorOptions().dtype(at::kDouble).device(device_));
  mesh_.along(parallel::Axis::kData).all_reduce_(all);
  // A step whose tokens are all masked has a zero gradient, not a division by zero.
  return all.clamp_min(1.0).reciprocal();
}

/// Sums the step's gradients over this rank's microbatches and over the ranks: those of the mean
/// loss of a label; without messages each stage of a pipeline takes zeros. Returns each
/// microbatch's part of that loss that this rank found, fp64 on the device.
std::vector<at::Tensor> Trainer::accumulate_gradients(
    const std::vector<Microbatch>& microbatches,
    bool with_messages) {
  const at::Tensor scale = loss_scale(microbatches);
  std::vector<RankTokens> own;
  for (const Microbatch& host : microbatches) {
    own.push_back(tokens_of_rank(host, mesh_, rules_, device_));
    if (own.back().shared && is_first()) {
      imbalance_ += own.back().shared->plan().attention_imbalance();
      ++shared_;
    }
  }
  std::vector<model::PipelineMicrobatch> inputs;
  inputs.reserve(own.size());
  for (const RankTokens& tokens : own) {
    inputs.push_back(tokens.input(training_context(tokens)));
  }
  gradients_->begin_step(static_cast<std::int64_t>(own.size()));
  model::PipelineStep step(*model_, std::move(inputs), scale);
  if (with_messages) {
    run_training(*model_, mesh_, own.size(), step.works());
  } else {
    run_without_messages(*model_, own.size(), step.works());
  }
  gradients_->finish();
  sum_over_model_ranks(*model_, mesh_, optimizer_->owned(), own_gradients());
  return step.losses();
}

/// The summed gradients of what the optimizer updates on this rank.
std::vector<at::Tensor> Trainer::own_gradients() const {
  std::vector<at::Tensor> gradients;
  for (const parallel::BucketSlice& slice : optimizer_->owned()) {
    gradients.push_back(gradients_->gradient(slice));
  }
  return gradients;
}

nn::StepContext Trainer::training_context(const RankTokens& tokens) const {
  nn::StepContext context = tokens.context();
  context.dropout = true;
  context.random_key = RandomKey(static_cast<std::uint64_t>(recipe_.run.seed))
                           .with("dropout")
                           .with(static_cast<std::uint64_t>(tokens.microbatch.index));
  return context;
}

double Trainer::evaluate() {
  return train::evaluate(
             *model_,
             valid_,
             {.tokens_per_microbatch = recipe_.data.tokens_per_microbatch,
              .max_tokens = recipe_.train.eval_tokens},
             mesh_,
             rules_)
      .loss();
}

// Every rank writes the optimizer states of the values that it owns, and each parameter whose first
// value it owns.
void Trainer::save() {
  if (is_first()) {
    log_->sync();
  }
  checkpoint::save_checkpoint(
      {.step = step_,
       .program = kVersion,
       .parameters = written_parameters(*share_, optimizer_->owned()),
       .optimizer_states = written_states(*share_, *optimizer_),
       .train_state = {{"loader", nlohmann::json::parse(to_json(loader_->state()))}},
       .recipe = config_to_toml(recipe_),
       .tokenizer_files = tokenizer_files_},
      {.run_folder = recipe_.run.folder,
       .keep_last = static_cast<int>(recipe_.checkpoint.keep),
       .log = log_warning,
       .ranks = mesh_.all(),
       .device = device_});
  saved_at_ = step_;
}

} // namespace baton::train
