// SPDX-License-Identifier: Apache-2.0
// What a rank of a pipeline does with a model in one training step.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/model/hybrid_model.h"
#include "baton/nn/step_context.h"
#include "baton/parallel/pipeline_runner.h"

namespace baton::model {

/// A microbatch as every rank of the pipeline knows it, on the model's device. Of a stream that
/// ranks share (context parallelism) it is this rank's part.
struct PipelineMicrobatch {
  at::Tensor tokens_T;              ///< read in the first stage
  at::Tensor labels_T;              ///< read in the last one
  std::optional<at::Tensor> mask_T; ///< read in the last one
  nn::StepContext context;
};

/// The works of one step: `parallel::PipelineRunner::run(step.works())` adds the gradients of
/// `scale` times the summed loss to those of the parameters that this rank holds. One rank alone is
/// a pipeline of one stage.
class PipelineStep {
 public:
  /// The model, and what the contexts refer to, outlive the step. `scale` is fp64 without dims, on
  /// the model's device.
  PipelineStep(
      const HybridModel& model,
      std::vector<PipelineMicrobatch> microbatches,
      const at::Tensor& scale);

  /// Outlived by the step.
  parallel::PipelineWorks works();

  /// `scale` times the summed loss of each microbatch, fp64 without dims on the device; zeros on
  /// ranks that do not hold the last stage.
  const std::vector<at::Tensor>& losses() const { return losses_; }

  /// The largest number of (microbatch, stage) whose activations this rank has held at once.
  std::size_t most_alive() const { return most_alive_; }

 private:
  /// Between a forward pass and its backward pass.
  struct Alive {
    at::Tensor input;  ///< a leaf, undefined in the first stage
    at::Tensor output; ///< of the last stage the scaled loss
  };

  at::Tensor forward(int stage, int microbatch, const at::Tensor& input);
  at::Tensor backward(int stage, int microbatch, const at::Tensor& gradient);

  const HybridModel& model_;
  std::vector<PipelineMicrobatch> microbatches_;
  at::Tensor scale_;
  std::map<std::pair<int, int>, Alive> alive_; ///< by stage and microbatch
  std::size_t most_alive_ = 0;
  std::vector<at::Tensor> losses_;
};

/// The works of an evaluation, for `parallel::make_forward_schedule`: without gradients, and with a
/// call of `found` for each microbatch on the rank of the last stage. What it refers to outlives
/// it.
parallel::PipelineWorks evaluation_works(
    const HybridModel& model,
    const std::vector<PipelineMicrobatch>& microbatches,
    const std::function<void(int microbatch, const nn::LossOutput&)>& found);

/// Of tied embeddings: adds up the gradient of `model.shared_matrix()` over the ranks of the first
/// and the last stage, in fp32 (fp64), so that both have equal bits. The two call it at once when
/// the step's works are done; on others, and where nothing is shared, it does nothing. `gradient`
/// is the matrix's, or the same part of it on both, wherever the caller keeps it.
void sum_shared_gradient_(
    const HybridModel& model,
    const at::Tensor& gradient,
    const parallel::PipelineLinks& links);

} // namespace baton::model
