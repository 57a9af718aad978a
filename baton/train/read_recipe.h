// SPDX-License-Identifier: Apache-2.0
// The recipe of a run that is to be trained.
#pragma once

#include <string>
#include <vector>

#include "baton/train/recipe.h"

namespace baton::train {

/// Reads a TOML file and applies "key=value" assignments to it. With run.start_from, that model's
/// section and tokenizer stand where the recipe says nothing. Throws Error, naming file, key and
/// value, when a key is unknown, a value is wrong, or values do not fit together.
Recipe read_recipe(const std::string& path, const std::vector<std::string>& assignments);

} // namespace baton::train
