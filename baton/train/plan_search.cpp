// SPDX-License-Identifier: Apache-2.0
#include "baton/train/plan_search.h"

#include <algorithm>
#include <cstdio>

#include "baton/base/error.h"

namespace baton::train {
namespace {

using parallel::ContextRules;
using parallel::ContextStrategy;
using parallel::KeyExchange;

constexpr std::int64_t kMostVirtualStages = 8;
constexpr double kMillisecondsPerSecond = 1e3;

std::vector<std::int64_t> divisors(std::int64_t number, std::optional<std::int64_t> wish) {
  std::vector<std::int64_t> found;
  for (std::int64_t i = 1; i <= number; ++i) {
    if (number % i == 0 && (!wish || *wish == i)) {
      found.push_back(i);
    }
  }
  return found;
}

std::vector<PlanMesh> grids(std::int64_t gpus, const MeshWishes& wishes) {
  std::vector<PlanMesh> found;
  for (const std::int64_t pp : divisors(gpus, wishes.pp)) {
    for (const std::int64_t cp : divisors(gpus / pp, wishes.cp)) {
      for (const std::int64_t tp : divisors(gpus / pp / cp, wishes.tp)) {
        const std::int64_t dp = gpus / pp / cp / tp;
        if (!wishes.dp || *wishes.dp == dp) {
          found.push_back({.pp = pp, .dp = dp, .cp = cp, .tp = tp});
        }
      }
    }
  }
  return found;
}

/// "cp 3, tp 2"
std::string axes_text(const MeshWishes& wishes) {
  std::string text;
  const auto add = [&](const char* axis, std::optional<std::int64_t> wish) {
    if (wish) {
      text += (text.empty() ? "" : ", ") + std::string(axis) + " " + std::to_string(*wish);
    }
  };
  add("pp", wishes.pp);
  add("dp", wishes.dp);
  add("cp", wishes.cp);
  add("tp", wishes.tp);
  return text;
}

/// The strategies that a wish leaves; one rank of context needs none.
std::vector<ContextRules> strategies(std::int64_t cp, const MeshWishes& wishes) {
  std::vector<ContextRules> found;
  for (const ContextRules& rules :
       {ContextRules{ContextStrategy::kBaton, KeyExchange::kGather},
        ContextRules{ContextStrategy::kBaton, KeyExchange::kRing},
        ContextRules{ContextStrategy::kAllToAll, KeyExchange::kGather}}) {
    const bool by_heads = rules.strategy == ContextStrategy::kAllToAll;
    if ((!wishes.strategy || *wishes.strategy == rules.strategy) &&
        (!wishes.keys || by_heads || *wishes.keys == rules.keys)) {
      found.push_back(rules);
    }
  }
  if (cp == 1) {
    found.resize(1);
  }
  return found;
}

std::vector<PlanMesh> variants(const PlanMesh& grid, const MeshWishes& wishes) {
  std::vector<PlanMesh> found;
  for (const ContextRules& rules : strategies(grid.cp, wishes)) {
    for (std::int64_t v = 1; v <= (grid.pp > 1 ? kMostVirtualStages : 1); ++v) {
      PlanMesh mesh = grid;
      mesh.rules = rules;
      mesh.virtual_stages = wishes.virtual_stages.value_or(v);
      found.push_back(mesh);
      if (wishes.virtual_stages) {
        break;
      }
    }
  }
  return found;
}

bool shorter_step(const Plan& a, const Plan& b) {
  return a.time.total() < b.time.total();
}

bool less_memory(const Plan& a, const Plan& b) {
  return a.memory.total() < b.memory.total();
}

/// Plans that fit before others; these by time, those by memory.
bool better(const Plan& a, const Plan& b) {
  if (a.fits != b.fits) {
    return a.fits;
  }
  return a.fits ? shorter_step(a, b) : less_memory(a, b);
}

} // namespace

PlanSearch search_meshes(
    const Workload& workload,
    const ModelValues& values,
    std::int64_t gpus,
    const MeshWishes& wishes,
    const GpuInfo& gpu) {
  PlanSearch search;
  for (const PlanMesh& grid : grids(gpus, wishes)) {
    std::optional<Plan> best;
    std::optional<RefusedMesh> refused;
    for (const PlanMesh& mesh : variants(grid, wishes)) {
      if (std::string reason = refusal(workload, mesh); !reason.empty()) {
        if (!refused) {
          refused = RefusedMesh{mesh, std::move(reason)};
        }
        continue;
      }
      Plan plan = make_plan(workload, values, mesh, gpu);
      if (!best || better(plan, *best)) {
        best = std::move(plan);
      }
    }
    if (best) {
      (best->fits ? search.fitting : search.too_large).push_back(std::move(*best));
    } else if (refused) {
      search.refused.push_back(std::move(*refused));
    }
  }
  if (search.fitting.empty() && search.too_large.empty() && search.refused.empty()) {
    throw Error(
        "no mesh of " + std::to_string(gpus) + " GPUs has the axes asked for, " +
        axes_text(wishes) + ": pp, dp, cp and tp must multiply to them");
  }
  std::stable_sort(search.fitting.begin(), search.fitting.end(), shorter_step);
  std::stable_sort(search.too_large.begin(), search.too_large.end(), less_memory);
  return search;
}

std::string why_slower(const Plan& best, const Plan& other) {
  TimePlan more = other.time;
  more.add(best.time, -1.0);
  const TimePart part = more.longest();
  if (more[part] <= 0.0) {
    return "";
  }
  char text[64];
  std::snprintf(
      text, sizeof(text), "%s +%.1f ms", part_name(part), kMillisecondsPerSecond * more[part]);
  return text;
}

} // namespace baton::train
