// SPDX-License-Identifier: Apache-2.0
// The meshes of so many GPUs that a workload can run on, the fastest first.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "baton/train/plan.h"

namespace baton::train {

/// What of a mesh is settled; the rest is searched for.
struct MeshWishes {
  std::optional<std::int64_t> pp{};
  std::optional<std::int64_t> dp{};
  std::optional<std::int64_t> cp{};
  std::optional<std::int64_t> tp{};
  std::optional<std::int64_t> virtual_stages{};
  std::optional<parallel::ContextStrategy> strategy{};
  std::optional<parallel::KeyExchange> keys{};
};

struct RefusedMesh {
  PlanMesh mesh;
  std::string reason;
};

/// One entry for each grid (pp, dp, cp, tp): its best strategy of context parallelism and number
/// of virtual stages.
struct PlanSearch {
  std::vector<Plan> fitting;   ///< the shortest step first
  std::vector<Plan> too_large; ///< the least memory first
  std::vector<RefusedMesh> refused;
};

/// All grids of `gpus` ranks that are as `wishes` say. Throws `Error` where no grid is: wishes that
/// do not divide `gpus`.
PlanSearch search_meshes(
    const Workload& workload,
    const ModelValues& values,
    std::int64_t gpus,
    const MeshWishes& wishes,
    const GpuInfo& gpu);

/// What makes `other` slower than `best`, in a few words: "scan +12.3 ms".
std::string why_slower(const Plan& best, const Plan& other);

} // namespace baton::train
