// SPDX-License-Identifier: Apache-2.0
// What the ranks that share a model, those along tp and pp, do together in a run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/model/pipeline_cut.h"
#include "baton/model/pipeline_step.h"
#include "baton/parallel/bucket_plan.h"
#include "baton/parallel/mesh.h"
#include "baton/train/recipe.h"

namespace baton::train {

model::PipelineCut pipeline_cut(const Recipe& recipe);

/// The model of a recipe whose pipes are resolved, with what this rank of the mesh holds of it.
std::unique_ptr<model::HybridModel> make_model(const Recipe& recipe, const parallel::Mesh& mesh);

/// A line about a step's schedule, with its idle time; `microbatches` are those of a pipeline.
std::string pipeline_text(const Recipe& recipe, std::int64_t microbatches);

/// Forward and backward passes of a step, or the forward passes of an evaluation. All ranks of a
/// pipeline call it at once; one rank alone works on one microbatch after the other.
void run_training(
    const model::HybridModel& model,
    const parallel::Mesh& mesh,
    std::size_t microbatches,
    const parallel::PipelineWorks& works);
void run_evaluation(
    const model::HybridModel& model,
    const parallel::Mesh& mesh,
    std::size_t microbatches,
    const parallel::PipelineWorks& works);

/// The passes of `run_training` through this rank's stages alone, in the same order of
/// microbatches, with zeros in the place of messages: kernels are loaded so. A GPU that waits for a
/// message loads none, and the message may wait for this rank in turn.
void run_without_messages(
    const model::HybridModel& model,
    std::size_t microbatches,
    const parallel::PipelineWorks& works);

/// For `BucketConfig::classes`: parameters that other ranks of the model hold too are apart from
/// others, so that shards of them are the same on all of these ranks.
std::vector<int> bucket_classes(const model::HybridModel& model);

/// Adds up what these ranks found for the parameters that they hold together, behind the sums over
/// dp and cp. `gradients` are those of `slices`, which is all that this rank owns.
void sum_over_model_ranks(
    const model::HybridModel& model,
    const parallel::Mesh& mesh,
    const std::vector<parallel::BucketSlice>& slices,
    at::TensorList gradients);

} // namespace baton::train
