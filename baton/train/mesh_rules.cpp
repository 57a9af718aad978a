// SPDX-License-Identifier: Apache-2.0
#include "baton/train/mesh_rules.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <string>

#include "baton/base/error.h"
#include "baton/model/hybrid_model.h"
#include "baton/model/pattern.h"

namespace baton::train {
namespace {

using parallel::Axis;

std::string number(std::int64_t value) {
  return std::to_string(value);
}

std::string nearest_text(const std::string& what, std::int64_t nearest) {
  return "; the nearest " + what + " that can be is " + number(nearest);
}

/// The positive number nearest to `value` that `fits`; 1 must.
std::int64_t nearest_to(std::int64_t value, const std::function<bool(std::int64_t)>& fits) {
  std::int64_t distance = 0;
  while (!(value > distance && fits(value - distance)) && !fits(value + distance)) {
    ++distance;
  }
  return value > distance && fits(value - distance) ? value - distance : value + distance;
}

void check_stages(const Recipe& recipe) {
  const std::int64_t pp = recipe.parallel.pp;
  const std::int64_t virtual_stages = recipe.parallel.virtual_stages;
  if (pp == 1) {
    if (virtual_stages > 1) {
      throw Error(
          "parallel.virtual_stages must be 1 where parallel.pp is 1: " + number(virtual_stages));
    }
    return;
  }
  const model::LayerPattern pattern = model::parse_pattern(recipe.model.pattern);
  const auto segments = static_cast<std::int64_t>(pattern.segments.size());
  const std::string asked = number(pp) + " x " + number(virtual_stages);
  if (pattern.has_pipes() && segments != pp * virtual_stages) {
    const std::int64_t nearest = nearest_to(pp, [&](std::int64_t n) { return segments % n == 0; });
    throw Error(
        "parallel.pp x parallel.virtual_stages must be the segments of model.pattern: " + asked +
        " vs " + number(segments) + "; the nearest that can be is " + number(nearest) + " x " +
        number(segments / nearest) + ", or leave out the pipes, and the layers are cut by cost");
  }
  const std::int64_t layers = pattern.num_layers();
  if (!pattern.has_pipes() && pp * virtual_stages > layers) {
    throw Error(
        "parallel.pp x parallel.virtual_stages must not exceed the layers of model.pattern: " +
        asked + " vs " + number(layers) +
        (pp <= layers ? nearest_text("virtual_stages", layers / pp)
                      : nearest_text("pp", std::max<std::int64_t>(1, layers / virtual_stages))));
  }
}

void check_microbatches(const Recipe& recipe, std::int64_t dp) {
  const std::int64_t count = recipe.microbatches_per_step();
  const auto refuse = [&](const std::string& rule, const std::function<bool(std::int64_t)>& fits) {
    throw Error(
        rule +
        nearest_text(
            "train.tokens_per_step", nearest_to(count, fits) * recipe.data.tokens_per_microbatch));
  };
  if (count % dp != 0) {
    refuse(
        "train.tokens_per_step / data.tokens_per_microbatch must be a multiple of the "
        "data-parallel ranks: " +
            number(count) + " vs " + number(dp),
        [&](std::int64_t n) { return n % dp == 0; });
  }
  const std::int64_t pp = recipe.parallel.pp;
  if (recipe.parallel.virtual_stages > 1 && count / dp % pp != 0) {
    refuse(
        "with parallel.virtual_stages the microbatches of a step on each data-parallel rank must "
        "be a multiple of parallel.pp: " +
            number(count / dp) + " vs " + number(pp),
        [&](std::int64_t n) { return n % (dp * pp) == 0; });
  }
  const auto is_power = [](std::int64_t n) {
    return std::has_single_bit(static_cast<std::uint64_t>(n));
  };
  if (recipe.train.deterministic_reduce && !is_power(dp)) {
    throw Error(
        "train.deterministic_reduce wants powers of two: " + number(dp) + " data-parallel ranks" +
        nearest_text("number of them", nearest_to(dp, is_power)));
  }
  if (recipe.train.deterministic_reduce && !is_power(count)) {
    refuse(
        "train.deterministic_reduce wants powers of two: " + number(count) + " microbatches a step",
        [&](std::int64_t n) { return is_power(n) && n % dp == 0; });
  }
}

/// What several ranks have of heads or groups each, or the one that they share.
std::int64_t local(std::int64_t all, std::int64_t ranks) {
  return std::max<std::int64_t>(1, all / ranks);
}

struct Heads {
  std::string heads_key;
  std::string groups_key;
  std::int64_t heads;
  std::int64_t groups;
};

/// The heads that a rank of tp has go once more among cp ranks.
void check_heads_of_context(const Heads& model, const parallel::ParallelConfig& config) {
  const std::int64_t heads = local(model.heads, config.tp);
  const std::int64_t groups = local(model.groups, config.tp);
  const auto fits = [&](std::int64_t cp) {
    return heads % cp == 0 && (groups % cp == 0 || cp % groups == 0);
  };
  if (!fits(config.cp)) {
    throw Error(
        "parallel.context = all_to_all wants " + model.heads_key +
        " to be a multiple of tp x cp, and one of " + model.groups_key +
        " and cp to divide the other; a rank of parallel.tp has heads " + number(heads) + ", " +
        model.groups_key + " " + number(groups) + ", cp " + number(config.cp) +
        nearest_text("cp", nearest_to(config.cp, fits)));
  }
}

void check_model(const Recipe& recipe, const parallel::MeshShape& shape) {
  model::ModelConfig config = recipe.model;
  const int tp = shape.along(Axis::kTensor);
  if (config.vocabulary == 0) {
    config.vocabulary = tp; // the tokenizer's, which will be checked when it is known
  }
  // Declares its parameters and refuses what cannot be divided.
  const model::HybridModel model(config, parallel::Group("tp", 0, tp, nullptr));
  if (recipe.parallel.cp == 1 || recipe.parallel.context != "all_to_all") {
    return;
  }
  const model::LayerPattern pattern = model::parse_pattern(config.pattern);
  if (count_layers(pattern, model::LayerKind::kMamba) > 0) {
    check_heads_of_context(
        {"model.mamba.num_heads", "num_groups", config.mamba.num_heads, config.mamba.num_groups},
        recipe.parallel);
  }
  if (count_layers(pattern, model::LayerKind::kAttention) > 0) {
    check_heads_of_context(
        {"model.attention.num_heads",
         "num_kv_heads",
         config.attention.num_heads,
         config.attention.num_kv_heads},
        recipe.parallel);
  }
}

} // namespace

parallel::MeshShape checked_mesh(const Recipe& recipe, int world_size) {
  const parallel::MeshShape shape = make_mesh_shape(recipe.parallel, world_size);
  check_stages(recipe);
  check_microbatches(recipe, shape.along(Axis::kData));
  check_model(recipe, shape);
  return shape;
}

} // namespace baton::train
