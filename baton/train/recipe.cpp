// SPDX-License-Identifier: Apache-2.0
#include "baton/train/recipe.h"

namespace baton::train {

Recipe parse_recipe(const std::string& text, const std::string& name) {
  Recipe recipe;
  read_config(recipe, text, name);
  return recipe;
}

} // namespace baton::train
