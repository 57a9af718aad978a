// SPDX-License-Identifier: Apache-2.0
// The training loop: loader -> model -> gradients -> optimizer, with evaluation and checkpoints.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "baton/checkpoint/load.h"
#include "baton/data/loader.h"
#include "baton/data/tokenizer.h"
#include "baton/model/hybrid_model.h"
#include "baton/model/model_share.h"
#include "baton/parallel/flat_parameters.h"
#include "baton/parallel/grad_buckets.h"
#include "baton/parallel/mesh.h"
#include "baton/train/data_log.h"
#include "baton/train/optimizer.h"
#include "baton/train/rank_tokens.h"
#include "baton/train/recipe.h"
#include "baton/train/run_log.h"
#include "baton/train/step_sums.h"

namespace baton::train {

/// What to do with checkpoints that the run folder already holds.
enum class Resume {
  kNever, ///< refuse to start beside them
  kAuto,  ///< go on from the newest whole one, or start
  kMust,  ///< go on, or refuse to start
};

/// How a run ended.
struct RunResult {
  std::int64_t steps = 0; ///< updates done, those before a resume counted in
  bool complete = false;  ///< false when a stop was asked for before the last step
  std::optional<double> valid_loss;
};

class Trainer {
 public:
  /// Opens the data and the run folder, builds the model on `device` and resumes, as one of the
  /// ranks of `mesh`. Throws Error for what the recipe or the files got wrong.
  Trainer(const Recipe& recipe, Resume resume, const parallel::Mesh& mesh, at::Device device);

  /// Trains to the last step, or until `stop` is set on any rank: then all finish the step in
  /// progress and save a checkpoint.
  RunResult run(const std::atomic<bool>& stop);

 private:
  void make_loader(const std::shared_ptr<const Blend>& blend);
  void make_model(const std::optional<checkpoint::Checkpoint>& newest);
  void make_optimizer();
  void warm_up();
  StepMetrics train_step(const std::atomic<bool>& stop);
  std::vector<at::Tensor> accumulate_gradients(
      const std::vector<Microbatch>& microbatches,
      bool with_messages = true);
  std::vector<at::Tensor> own_gradients() const;
  at::Tensor loss_scale(const std::vector<Microbatch>& microbatches) const;
  nn::StepContext training_context(const RankTokens& tokens) const;
  StepReport update(const StepSums& sums, double lr);
  void report(const StepMetrics& metrics);
  void report_imbalance() const;
  void check_parameters() const;
  double evaluate();
  void save();
  bool due(std::int64_t interval) const;
  bool is_first() const { return mesh_.rank() == 0; }
  std::int64_t own_microbatches() const;

  parallel::Mesh mesh_;
  at::Device device_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  Recipe recipe_; // with every choice that it left open resolved
  std::map<std::string, std::string> tokenizer_files_; // bytes by name, as they were at the start
  Schedule schedule_;
  parallel::ContextRules rules_;
  std::unique_ptr<model::HybridModel> model_;
  std::unique_ptr<const model::ModelShare> share_;
  std::unique_ptr<parallel::GradBuckets> gradients_;
  std::unique_ptr<parallel::FlatParameters> flat_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<StepReduction> reduction_;
  std::unique_ptr<Loader> loader_;
  std::shared_ptr<const IndexedDataset> valid_;
  std::unique_ptr<RunLog> log_;       // of rank 0 only
  std::unique_ptr<DataLog> data_log_; // of rank 0 only
  bool has_mask_ = false;             ///< whether the training data has one
  std::int64_t step_ = 0;             ///< updates done
  std::int64_t saved_at_ = 0;         ///< `step_` of the newest checkpoint
  double imbalance_ = 0.0;            ///< of attention among cp ranks, summed over `shared_`
  std::int64_t shared_ = 0;           ///< microbatches that cp ranks have shared
  bool stopping_ = false;             ///< all ranks know that one was asked to stop
};

} // namespace baton::train
