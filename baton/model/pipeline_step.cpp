// SPDX-License-Identifier: Apache-2.0
#include "baton/model/pipeline_step.h"

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>

#include "baton/parallel/tensor_rows.h"

namespace baton::model {
namespace {

/// Room for what comes from another stage.
at::Tensor allocate_message(const HybridModel& model, const PipelineMicrobatch& microbatch) {
  const parallel::Group& ranks = model.parameters().tensor_ranks();
  const parallel::Share rows =
      parallel::even_share(microbatch.context.layout.num_tokens, ranks.rank(), ranks.size());
  return at::empty(
      {rows.count, model.config().width},
      at::TensorOptions().dtype(model.stream_dtype()).device(model.device()));
}

bool is_last(const HybridModel& model, int stage) {
  return stage == model.place().stages() - 1;
}

} // namespace

PipelineStep::PipelineStep(
    const HybridModel& model,
    std::vector<PipelineMicrobatch> microbatches,
    const at::Tensor& scale)
    : model_(model),
      microbatches_(std::move(microbatches)),
      scale_(scale),
      losses_(microbatches_.size(), at::zeros_like(scale)) {}

parallel::PipelineWorks PipelineStep::works() {
  return {
      .forward =
          [this](int stage, int microbatch, const at::Tensor& input) {
            return forward(stage, microbatch, input);
          },
      .backward =
          [this](int stage, int microbatch, const at::Tensor& gradient) {
            return backward(stage, microbatch, gradient);
          },
      .allocate =
          [this](int microbatch) {
            return allocate_message(model_, microbatches_.at(static_cast<std::size_t>(microbatch)));
          }};
}

at::Tensor PipelineStep::forward(int stage, int microbatch, const at::Tensor& input) {
  const PipelineMicrobatch& each = microbatches_.at(static_cast<std::size_t>(microbatch));
  Alive alive;
  if (stage > 0) {
    alive.input = input.detach().requires_grad_(true);
  }
  alive.output = model_.run_stage(
      stage / model_.place().ranks, stage == 0 ? each.tokens_T : alive.input, each.context);
  at::Tensor handed_on;
  if (is_last(model_, stage)) {
    const at::Tensor loss_sum = model_.loss(alive.output, each.labels_T, each.mask_T).loss_sum;
    alive.output = loss_sum * scale_.to(loss_sum.scalar_type());
    losses_[static_cast<std::size_t>(microbatch)] = alive.output.detach().to(at::kDouble);
  } else {
    handed_on = alive.output.detach();
  }
  alive_[{stage, microbatch}] = std::move(alive);
  most_alive_ = std::max(most_alive_, alive_.size());
  return handed_on;
}

at::Tensor PipelineStep::backward(int stage, int microbatch, const at::Tensor& gradient) {
  const auto found = alive_.find({stage, microbatch});
  TORCH_INTERNAL_ASSERT(found != alive_.end(), "pipeline: a backward pass before its forward pass");
  const Alive alive = std::move(found->second);
  alive_.erase(found);
  alive.output.backward(gradient);
  return alive.input.defined() ? alive.input.grad() : at::Tensor();
}

parallel::PipelineWorks evaluation_works(
    const HybridModel& model,
    const std::vector<PipelineMicrobatch>& microbatches,
    const std::function<void(int microbatch, const nn::LossOutput&)>& found) {
  return {
      .forward =
          [&model, &microbatches, found](int stage, int microbatch, const at::Tensor& input) {
            const at::NoGradGuard no_grad;
            const PipelineMicrobatch& each = microbatches.at(static_cast<std::size_t>(microbatch));
            const at::Tensor output = model.run_stage(
                stage / model.place().ranks, stage == 0 ? each.tokens_T : input, each.context);
            if (!is_last(model, stage)) {
              return output;
            }
            found(microbatch, model.loss(output, each.labels_T, each.mask_T));
            return at::Tensor();
          },
      .backward = nullptr,
      .allocate =
          [&model, &microbatches](int microbatch) {
            return allocate_message(model, microbatches.at(static_cast<std::size_t>(microbatch)));
          }};
}

void sum_shared_gradient_(
    const HybridModel& model,
    const at::Tensor& gradient,
    const parallel::PipelineLinks& links) {
  if (model.shared_matrix() == nullptr) {
    return;
  }
  // The ring's way from the last rank to the first, which is idle once the works are done.
  const parallel::Group& ends =
      model.holds_first_stage() ? links.activations_in : links.activations_out;
  const at::Tensor sum =
      gradient.to(at::promote_types(gradient.scalar_type(), at::kFloat)).contiguous();
  ends.all_reduce_(sum);
  if (!sum.is_same(gradient)) {
    gradient.copy_(sum);
  }
}

} // namespace baton::model
