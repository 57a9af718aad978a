// SPDX-License-Identifier: Apache-2.0
#include "baton/train/ranks.h"

#include <chrono>
#include <sstream>
#include <string>
#include <vector>

#include "baton/base/config.h"
#include "baton/base/error.h"
#include "baton/base/version.h"
#include "baton/ops/cuda_module.h"
#include "baton/ops/device.h"
#include "baton/parallel/text_exchange.h"
#include "baton/train/mesh_rules.h"

namespace baton::train {
namespace {

/// What must be equal on all ranks. Folders may have other names on other hosts, and threads change
/// no bit.
std::string shared_text(Recipe recipe) {
  recipe.run.folder.clear();
  recipe.run.threads = 0;
  return config_to_toml(recipe);
}

/// Throws on every rank, naming the first that differs from rank 0 and where.
void check_recipes(const std::vector<std::string>& recipes) {
  for (std::size_t rank = 1; rank < recipes.size(); ++rank) {
    std::istringstream own(recipes[rank]);
    std::istringstream first(recipes.front());
    std::string own_line;
    std::string first_line;
    while (recipes[rank] != recipes.front()) {
      const bool more = static_cast<bool>(std::getline(own, own_line));
      const bool more_of_first = static_cast<bool>(std::getline(first, first_line));
      if (own_line != first_line || !more || !more_of_first) {
        throw Error(
            "rank " + std::to_string(rank) + " has another recipe than rank 0: \"" + own_line +
            "\" vs \"" + first_line + "\"");
      }
    }
  }
}

} // namespace

c10::Device open_rank_device(const Recipe& recipe, const parallel::Launch& launch) {
  std::string name = recipe.run.device;
  if (launch.world_size > 1 && name.rfind("cuda:", 0) == 0) {
    throw Error(
        "run.device: " + name + " would be the GPU of all " + std::to_string(launch.world_size) +
        " ranks; cuda gives each its own");
  }
  // A scheduler may show each process its own GPU only.
  if (launch.world_size > 1 && name == "cuda" && ops::cuda_device_count() != 1) {
    name += ":" + std::to_string(launch.local_rank);
  }
  return ops::open_device(name, "run.device");
}

parallel::Mesh open_mesh(const Recipe& recipe, const parallel::Launch& launch, c10::Device device) {
  const parallel::ParallelConfig& config = recipe.parallel;
  const parallel::MeshShape shape = checked_mesh(recipe, launch.world_size);
  if (shape.size() == 1) {
    return {};
  }
  // What ranks on GPUs add in which order is settled when they meet.
  ops::set_arithmetic(recipe.train.deterministic);
  const auto timeout = std::chrono::milliseconds(std::chrono::seconds(config.timeout));
  parallel::Mesh mesh(shape, launch.rank, parallel::open_store(launch, timeout), device, timeout);
  mesh.check_same("version of the program", kVersion);
  check_recipes(parallel::all_gather_text(mesh.all(), shared_text(recipe), device));
  return mesh;
}

} // namespace baton::train
