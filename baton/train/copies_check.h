// SPDX-License-Identifier: Apache-2.0
// Whether ranks that hold the same parameters hold equal bits.
#pragma once

#include "baton/model/hybrid_model.h"
#include "baton/parallel/mesh.h"

namespace baton::train {

/// Compares the copies that ranks hold along dp and cp, those of what ranks along tp share, and the
/// matrix of a pipeline's tied ends. Throws RunError, naming parameter and rank, where they differ.
/// All ranks call it at once.
void check_copies(const model::HybridModel& model, const parallel::Mesh& mesh);

} // namespace baton::train
