// SPDX-License-Identifier: Apache-2.0
#include "apps/plan_text.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "apps/table.h"
#include "baton/base/progress.h"

namespace baton {
namespace {

using train::Plan;
using train::TimePart;

constexpr double kGibibyte = 1024.0 * 1024.0 * 1024.0;
constexpr double kGigabyte = 1e9;
constexpr double kTera = 1e12;
constexpr double kMilliseconds = 1e3;
constexpr double kPercent = 100.0;
constexpr std::size_t kMostReasons = 6;

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string milliseconds(double seconds) {
  return number("%.1f", kMilliseconds * seconds);
}

std::string gibibytes(double bytes) {
  return number("%.2f", bytes / kGibibyte);
}

std::string percent(double share) {
  return number("%.1f %%", kPercent * share);
}

/// Gradients are exchanged along two axes at once.
std::string axis_text(const train::TrafficPlan& traffic) {
  return traffic.axis == parallel::Axis::kData ? "dp x cp" : parallel::axis_name(traffic.axis);
}

std::vector<std::pair<const char*, double>> memory_rows(const train::MemoryPlan& memory) {
  return {
      {"weights", memory.weights},
      {"gradients", memory.gradients},
      {"optimizer", memory.optimizer},
      {"activations", memory.activations},
      {"transient", memory.transient},
      {"runtime", memory.runtime}};
}

/// Why meshes are refused, with how many are for each reason, the commonest first.
std::vector<std::pair<std::string, std::size_t>> reasons(const train::PlanSearch& search) {
  std::map<std::string, std::size_t> counts;
  for (const train::RefusedMesh& mesh : search.refused) {
    ++counts[mesh.reason];
  }
  std::vector<std::pair<std::string, std::size_t>> sorted(counts.begin(), counts.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    return a.second > b.second;
  });
  return sorted;
}

void print_head(const PlanFindings& findings) {
  const train::Workload& work = findings.workload;
  std::printf(
      "prediction for %s on %lld %s\n",
      findings.recipe.c_str(),
      static_cast<long long>(findings.gpus),
      findings.gpu.name.c_str());
  std::printf(
      "  %s parameters in %s; steps of %lld tokens, microbatches of %lld, documents of %lld\n",
      count_text(findings.parameters).c_str(),
      work.model.dtype.c_str(),
      static_cast<long long>(work.tokens_per_step),
      static_cast<long long>(work.tokens_per_microbatch),
      static_cast<long long>(work.document));
  const Plan& plan = findings.best();
  std::printf(
      "\nmesh %s; %lld microbatches a step for each dp rank\n",
      plan.mesh.text().c_str(),
      static_cast<long long>(plan.microbatches));
  std::printf(
      "  step %s ms, %s tokens/s, %s of peak; bound by %s\n",
      milliseconds(plan.time.total()).c_str(),
      count_text(plan.tokens_per_second).c_str(),
      percent(plan.utilisation).c_str(),
      part_name(plan.time.longest()));
  if (!plan.fits) {
    std::printf(
        "  does not fit: %s GiB of %s, a twentieth of which is to stay free\n",
        gibibytes(plan.memory.total()).c_str(),
        gibibytes(findings.gpu.memory).c_str());
  }
}

void print_memory(const PlanFindings& findings) {
  const Plan& plan = findings.best();
  std::printf("\n");
  std::vector<std::vector<std::string>> rows{{"memory", "GiB", "share"}};
  for (const auto& [name, bytes] : memory_rows(plan.memory)) {
    rows.push_back({name, gibibytes(bytes), percent(bytes / findings.gpu.memory)});
  }
  const double total = plan.memory.total();
  rows.push_back({"all", gibibytes(total), percent(total / findings.gpu.memory)});
  print_table(rows);
  if (plan.mesh.pp > 1) {
    std::printf(
        "  of pipeline rank %lld, the fullest\n", static_cast<long long>(plan.fullest_stage));
  }
}

void print_time(const Plan& plan) {
  std::printf("\n");
  std::vector<std::vector<std::string>> rows{{"time", "ms", "share", "tera-operations"}};
  const auto operations = [&](TimePart part) -> std::string {
    switch (part) {
      case TimePart::kProducts:
        return number("%.1f", plan.operations.products / kTera);
      case TimePart::kScan:
        return number("%.1f", plan.operations.scan / kTera);
      case TimePart::kAttention:
        return number("%.1f", plan.operations.attention / kTera);
      default:
        return "";
    }
  };
  for (std::size_t i = 0; i < train::kTimeParts; ++i) {
    const auto part = static_cast<TimePart>(i);
    if (plan.time[part] > 0.0) {
      rows.push_back(
          {part_name(part),
           milliseconds(plan.time[part]),
           percent(plan.time[part] / plan.time.total()),
           operations(part)});
    }
  }
  print_table(rows);
}

void print_traffic(const Plan& plan) {
  if (plan.traffic.empty()) {
    return;
  }
  std::printf("\n");
  std::vector<std::vector<std::string>> rows{
      {"traffic", "ranks", "GB sent", "through", "ms", "not hidden"}};
  for (const train::TrafficPlan& traffic : plan.traffic) {
    rows.push_back(
        {axis_text(traffic),
         std::to_string(traffic.ranks),
         number("%.3f", traffic.bytes / kGigabyte),
         traffic.network ? "network" : "NVLink",
         milliseconds(traffic.seconds),
         milliseconds(traffic.exposed)});
  }
  print_table(rows);
  if (plan.mesh.pp > 1) {
    std::printf("  pipeline bubble %s\n", percent(plan.bubble).c_str());
  }
}

void print_others(const PlanFindings& findings, std::size_t meshes) {
  const train::PlanSearch& search = findings.search;
  if (search.fitting.size() > 1) {
    std::printf("\n");
    std::vector<std::vector<std::string>> rows{
        {"mesh", "ms", "tokens/s", "of peak", "GiB", "bound by", "beside the best"}};
    const Plan& best = search.fitting.front();
    for (std::size_t i = 0; i < std::min(meshes, search.fitting.size()); ++i) {
      const Plan& plan = search.fitting[i];
      rows.push_back(
          {plan.mesh.text(),
           milliseconds(plan.time.total()),
           count_text(plan.tokens_per_second),
           percent(plan.utilisation),
           gibibytes(plan.memory.total()),
           part_name(plan.time.longest()),
           i == 0 ? "" : why_slower(best, plan)});
    }
    print_table(rows);
    if (search.fitting.size() > meshes) {
      const Plan& last = search.fitting.back();
      std::printf(
          "  and %zu slower ones, up to %s ms (%s: %s)\n",
          search.fitting.size() - meshes,
          milliseconds(last.time.total()).c_str(),
          last.mesh.text().c_str(),
          why_slower(best, last).c_str());
    }
  }
  if (!search.too_large.empty() && !search.fitting.empty()) {
    const Plan& least = search.too_large.front();
    std::printf(
        "  %zu do not fit; the leanest, %s, wants %s GiB of %s\n",
        search.too_large.size(),
        least.mesh.text().c_str(),
        gibibytes(least.memory.total()).c_str(),
        gibibytes(findings.gpu.memory).c_str());
  }
  const auto counted = reasons(search);
  for (std::size_t i = 0; i < std::min(kMostReasons, counted.size()); ++i) {
    std::printf("  %zu refused: %s\n", counted[i].second, counted[i].first.c_str());
  }
  if (counted.size() > kMostReasons) {
    std::printf("  more refused for %zu other reasons\n", counted.size() - kMostReasons);
  }
}

nlohmann::ordered_json mesh_json(const train::PlanMesh& mesh) {
  nlohmann::ordered_json json{
      {"pp", mesh.pp},
      {"dp", mesh.dp},
      {"cp", mesh.cp},
      {"tp", mesh.tp},
      {"virtual_stages", mesh.virtual_stages}};
  if (mesh.cp > 1) {
    const bool heads = mesh.rules.strategy == parallel::ContextStrategy::kAllToAll;
    json["context"] = heads ? "all_to_all" : "baton";
    if (!heads) {
      json["attention"] = mesh.rules.keys == parallel::KeyExchange::kRing ? "ring" : "gather";
    }
  }
  return json;
}

nlohmann::ordered_json to_json(const Plan& plan) {
  nlohmann::ordered_json json{
      {"mesh", mesh_json(plan.mesh)},
      {"fits", plan.fits},
      {"microbatches", plan.microbatches},
      {"step_seconds", plan.time.total()},
      {"tokens_per_second", plan.tokens_per_second},
      {"utilisation", plan.utilisation},
      {"bound_by", part_name(plan.time.longest())},
      {"bubble", plan.bubble},
      {"fullest_stage", plan.fullest_stage}};
  for (const auto& [name, bytes] : memory_rows(plan.memory)) {
    json["memory_bytes"][name] = bytes;
  }
  json["memory_bytes"]["all"] = plan.memory.total();
  json["operations"] = {
      {"products", plan.operations.products},
      {"scan", plan.operations.scan},
      {"attention", plan.operations.attention}};
  for (std::size_t i = 0; i < train::kTimeParts; ++i) {
    json["seconds"][part_name(static_cast<TimePart>(i))] = plan.time.parts[i];
  }
  json["traffic"] = nlohmann::ordered_json::array();
  for (const train::TrafficPlan& traffic : plan.traffic) {
    json["traffic"].push_back(
        {{"axis", axis_text(traffic)},
         {"ranks", traffic.ranks},
         {"bytes", traffic.bytes},
         {"through", traffic.network ? "network" : "nvlink"},
         {"seconds", traffic.seconds},
         {"exposed_seconds", traffic.exposed}});
  }
  return json;
}

} // namespace

const Plan& PlanFindings::best() const {
  return search.fitting.empty() ? search.too_large.front() : search.fitting.front();
}

void print_plan(const PlanFindings& findings, std::size_t meshes) {
  print_head(findings);
  print_memory(findings);
  print_time(findings.best());
  print_traffic(findings.best());
  print_others(findings, meshes);
}

void print_scaling(const std::vector<PlanFindings>& all) {
  const PlanFindings& first = all.front();
  std::printf(
      "prediction for %s, %s parameters, steps of %lld tokens\n",
      first.recipe.c_str(),
      count_text(first.parameters).c_str(),
      static_cast<long long>(first.workload.tokens_per_step));
  std::vector<std::vector<std::string>> rows{
      {first.gpu.name, "mesh", "ms", "tokens/s", "of peak", "GiB", "bound by", "then by"}};
  for (const PlanFindings& findings : all) {
    const Plan& plan = findings.best();
    train::TimePlan rest = plan.time;
    rest[plan.time.longest()] = 0.0;
    rows.push_back(
        {std::to_string(findings.gpus),
         plan.mesh.text(),
         milliseconds(plan.time.total()),
         count_text(plan.tokens_per_second),
         percent(plan.utilisation),
         gibibytes(plan.memory.total()) + (plan.fits ? "" : " (does not fit)"),
         part_name(plan.time.longest()),
         part_name(rest.longest())});
  }
  print_table(rows);
}

nlohmann::ordered_json plan_json(const PlanFindings& findings, std::size_t meshes) {
  const train::Workload& work = findings.workload;
  const train::PlanSearch& search = findings.search;
  nlohmann::ordered_json json{
      {"recipe", findings.recipe},
      {"gpu", findings.gpu.name},
      {"gpus", findings.gpus},
      {"gpu_memory_bytes", findings.gpu.memory},
      {"parameters", findings.parameters},
      {"dtype", work.model.dtype},
      {"tokens_per_step", work.tokens_per_step},
      {"tokens_per_microbatch", work.tokens_per_microbatch},
      {"document_tokens", work.document},
      {"best", to_json(findings.best())}};
  json["meshes"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < std::min(meshes, search.fitting.size()); ++i) {
    json["meshes"].push_back(to_json(search.fitting[i]));
    json["meshes"].back()["slower_by"] = why_slower(search.fitting.front(), search.fitting[i]);
  }
  json["fitting"] = search.fitting.size();
  json["too_large"] = search.too_large.size();
  json["refused"] = nlohmann::ordered_json::array();
  for (const auto& [reason, count] : reasons(search)) {
    json["refused"].push_back({{"reason", reason}, {"meshes", count}});
  }
  return json;
}

} // namespace baton
