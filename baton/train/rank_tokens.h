// SPDX-License-Identifier: Apache-2.0
// A rank's tokens of a microbatch that the ranks of context parallelism share.
#pragma once

#include <ATen/core/Tensor.h>

#include "baton/data/loader.h"
#include "baton/model/pipeline_step.h"
#include "baton/nn/step_context.h"
#include "baton/parallel/context.h"
#include "baton/parallel/mesh.h"

namespace baton::train {

/// What a pass of the model over a microbatch takes on one rank, on the device.
struct RankTokens {
  Microbatch microbatch; ///< this rank's tokens, labels and mask; `targets` is of all ranks
  c10::intrusive_ptr<parallel::Context> shared; ///< null where the rank has all tokens

  /// Of this rank's tokens, without dropout. Lives as long as this.
  nn::StepContext context() const;

  /// What a stage of the model works on.
  model::PipelineMicrobatch input(const nn::StepContext& context) const {
    return {microbatch.tokens_T, microbatch.labels_T, microbatch.mask_T, context};
  }
};

/// `host` is the whole microbatch, the same on all ranks of the mesh's context axis.
RankTokens tokens_of_rank(
    const Microbatch& host,
    const parallel::Mesh& mesh,
    const parallel::ContextRules& rules,
    at::Device device);

} // namespace baton::train
