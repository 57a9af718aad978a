// SPDX-License-Identifier: Apache-2.0
// Which meshes a recipe can be trained on.
#pragma once

#include "baton/parallel/mesh.h"
#include "baton/train/recipe.h"

namespace baton::train {

/// The mesh of a recipe on so many ranks. Throws for what cannot be, with the rule, the numbers and
/// the nearest that can; before data is opened or anything allocated. A vocabulary that the
/// tokenizer decides is not known here: the model checks it.
parallel::MeshShape checked_mesh(const Recipe& recipe, int world_size);

} // namespace baton::train
