// SPDX-License-Identifier: Apache-2.0
// The tensors of a run as its checkpoint has them: what a rank reads, and what it writes.
#pragma once

#include <vector>

#include "baton/model/model_share.h"
#include "baton/parallel/bucket_plan.h"
#include "baton/parallel/tensor_slice.h"
#include "baton/train/model_source.h"
#include "baton/train/optimizer.h"

namespace baton::train {

/// This rank's values of each parameter of the whole model, of some none.
parallel::TensorSlices held_parameters(const model::ModelShare& share);

/// Those that it writes: of the parameters of which it owns the first value.
parallel::TensorSlices written_parameters(
    const model::ModelShare& share,
    const std::vector<parallel::BucketSlice>& owned);

/// The same of the optimizer's states, "<parameter>.<kind>".
parallel::TensorSlices held_states(const model::ModelShare& share, const AdamW& optimizer);
parallel::TensorSlices written_states(const model::ModelShare& share, const AdamW& optimizer);

/// Fills this rank's parameters from another model. Where ranks share the model, each has all of it
/// in its host's memory meanwhile.
void read_start_values(const model::ModelShare& share, const ModelSource& source);

} // namespace baton::train
