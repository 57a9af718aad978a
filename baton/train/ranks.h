// SPDX-License-Identifier: Apache-2.0
// From a launched process to its device and its place in the mesh of a run.
#pragma once

#include <c10/core/Device.h>

#include "baton/parallel/launch.h"
#include "baton/parallel/mesh.h"
#include "baton/train/recipe.h"

namespace baton::train {

/// The device of a rank: of several, `cuda` is the GPU of its number on its host, or the only one
/// that it sees. Throws `Error` for a device that cannot be opened, and where several ranks would
/// share one by name.
c10::Device open_rank_device(const Recipe& recipe, const parallel::Launch& launch);

/// Meets the other ranks and makes sure that all run the same program and recipe; one rank alone
/// meets nobody. Throws `Error` for a mesh that the recipe cannot have and where ranks differ,
/// RunError where one does not come.
parallel::Mesh open_mesh(const Recipe& recipe, const parallel::Launch& launch, c10::Device device);

} // namespace baton::train
