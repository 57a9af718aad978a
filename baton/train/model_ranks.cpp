// SPDX-License-Identifier: Apache-2.0
#include "baton/train/model_ranks.h"

#include <ATen/ATen.h>

#include "baton/nn/tensor_gradients.h"

namespace baton::train {
namespace {

parallel::PipelineShape shape_of(const model::PipelinePlace& place, std::size_t microbatches) {
  return {
      .ranks = static_cast<int>(place.ranks),
      .virtual_stages = static_cast<int>(place.virtual_stages),
      .microbatches = static_cast<int>(microbatches)};
}

void run(
    const model::HybridModel& model,
    const parallel::Mesh& mesh,
    const parallel::PipelineSchedule& schedule,
    const parallel::PipelineWorks& works) {
  parallel::LinkTransport transport(mesh.pipeline_links());
  parallel::PipelineRunner(schedule, static_cast<int>(model.place().rank), transport).run(works);
}

} // namespace

model::PipelineCut pipeline_cut(const Recipe& recipe) {
  return {
      .ranks = recipe.parallel.pp,
      .virtual_stages = recipe.parallel.virtual_stages,
      .tokens_per_microbatch = recipe.data.tokens_per_microbatch};
}

std::unique_ptr<model::HybridModel> make_model(const Recipe& recipe, const parallel::Mesh& mesh) {
  return std::make_unique<model::HybridModel>(
      recipe.model,
      mesh.along(parallel::Axis::kTensor),
      model::PipelinePlace{
          .ranks = recipe.parallel.pp,
          .virtual_stages = recipe.parallel.virtual_stages,
          .rank = mesh.coordinate(parallel::Axis::kPipeline)});
}

std::string pipeline_text(const Recipe& recipe, std::int64_t microbatches) {
  const model::PipelinePlace place{recipe.parallel.pp, recipe.parallel.virtual_stages};
  return parallel::describe_pipeline(
      parallel::make_pipeline_schedule(shape_of(place, static_cast<std::size_t>(microbatches))),
      model::stage_costs(recipe.model, pipeline_cut(recipe)));
}

void run_training(
    const model::HybridModel& model,
    const parallel::Mesh& mesh,
    std::size_t microbatches,
    const parallel::PipelineWorks& works) {
  run(model, mesh, parallel::make_pipeline_schedule(shape_of(model.place(), microbatches)), works);
}

void run_evaluation(
    const model::HybridModel& model,
    const parallel::Mesh& mesh,
    std::size_t microbatches,
    const parallel::PipelineWorks& works) {
  run(model, mesh, parallel::make_forward_schedule(shape_of(model.place(), microbatches)), works);
}

void run_without_messages(
    const model::HybridModel& model,
    std::size_t microbatches,
    const parallel::PipelineWorks& works) {
  const parallel::PipelineShape shape = shape_of(model.place(), microbatches);
  for (int microbatch = 0; microbatch < shape.microbatches; ++microbatch) {
    for (int stage = 0; stage < shape.stages(); ++stage) {
      if (shape.rank_of(stage) != static_cast<int>(model.place().rank)) {
        continue;
      }
      const bool first = stage == 0;
      const bool last = stage + 1 == shape.stages();
      const at::Tensor input = first ? at::Tensor() : works.allocate(microbatch).zero_();
      const at::Tensor output = works.forward(stage, microbatch, input);
      works.backward(stage, microbatch, last ? at::Tensor() : at::zeros_like(output));
    }
  }
}

std::vector<int> bucket_classes(const model::HybridModel& model) {
  std::vector<int> classes;
  for (const nn::Parameter& parameter : model.parameters().parameters()) {
    const bool along_tp = nn::has_other_holders(model.parameters(), parameter.spec);
    classes.push_back(model.shared_matrix() == &parameter ? 2 : along_tp ? 1 : 0);
  }
  return classes;
}

void sum_over_model_ranks(
    const model::HybridModel& model,
    const parallel::Mesh& mesh,
    const std::vector<parallel::BucketSlice>& slices,
    at::TensorList gradients) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    if (model.shared_matrix() == &model.parameters().parameters()[slices[i].parameter]) {
      model::sum_shared_gradient_(model, gradients[i], mesh.pipeline_links());
    }
  }
  nn::sum_tensor_gradients(model.parameters(), slices, gradients);
}

} // namespace baton::train
