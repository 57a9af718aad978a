// SPDX-License-Identifier: Apache-2.0
#include "baton/train/read_recipe.h"

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/model/pattern.h"
#include "baton/train/model_source.h"

namespace baton::train {
namespace {

void check_recipe(const Recipe& recipe, const std::string& name) {
  const auto require_text = [&](const std::string& key, const std::string& value) {
    if (value.empty()) {
      throw Error(name + ": " + key + " must be given");
    }
  };
  require_text("run.folder", recipe.run.folder);
  if (recipe.data.train.empty()) {
    throw Error(name + ": data.train must be given");
  }
  for (const std::string& set : recipe.data.train) {
    require_text("data.train", set);
  }
  if (!recipe.data.weights.empty() && recipe.data.weights.size() != recipe.data.train.size()) {
    throw Error(
        name + ": data.weights must have one weight for each set of data.train: " +
        std::to_string(recipe.data.weights.size()) + " vs " +
        std::to_string(recipe.data.train.size()));
  }
  require_text("model.pattern", recipe.model.pattern);
  if (recipe.train.tokens_per_step % recipe.data.tokens_per_microbatch != 0) {
    throw Error(
        name + ": train.tokens_per_step must be a multiple of data.tokens_per_microbatch: " +
        std::to_string(recipe.train.tokens_per_step) + " vs " +
        std::to_string(recipe.data.tokens_per_microbatch));
  }
}

} // namespace

Recipe read_recipe(const std::string& path, const std::vector<std::string>& assignments) {
  const std::string text = read_file(path);
  const auto read_over = [&](Recipe recipe) {
    read_config(recipe, text, path);
    for (const std::string& assignment : assignments) {
      set_config(recipe, assignment);
    }
    return recipe;
  };
  Recipe recipe = read_over({});
  if (!recipe.run.start_from.empty()) {
    const ModelSource source = open_model(recipe.run.start_from);
    Recipe start;
    start.model = source.recipe.model;
    // Its pipes are those of the mesh on which it was trained.
    model::LayerPattern pattern = model::parse_pattern(start.model.pattern);
    pattern.segments = {pattern.layers};
    start.model.pattern = pattern.text();
    start.data.tokenizer = source.tokenizer.value_or(start.data.tokenizer);
    recipe = read_over(start);
  }
  check_recipe(recipe, path);
  return recipe;
}

} // namespace baton::train
