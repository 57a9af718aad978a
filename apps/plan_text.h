// SPDX-License-Identifier: Apache-2.0
// Plans of training steps as text and JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "baton/train/plan_search.h"

namespace baton {

/// What `baton plan` found for one number of GPUs.
struct PlanFindings {
  std::string recipe;
  std::int64_t gpus = 0;
  train::GpuInfo gpu;
  train::Workload workload;
  double parameters = 0.0;
  train::PlanSearch search;

  /// The fastest mesh that fits, or, where none does, the one that needs the least memory.
  const train::Plan& best() const;
};

/// One mesh in detail, the next best ones, and why the others are not among them.
void print_plan(const PlanFindings& findings, std::size_t meshes);

/// One line for each number of GPUs.
void print_scaling(const std::vector<PlanFindings>& all);

nlohmann::ordered_json plan_json(const PlanFindings& findings, std::size_t meshes);

} // namespace baton
