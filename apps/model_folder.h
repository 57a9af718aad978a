// SPDX-License-Identifier: Apache-2.0
// MODEL on a command line: a run folder or a checkpoint, loaded with its tokenizer.
#pragma once

#include <memory>
#include <string>

#include "baton/data/tokenizer.h"
#include "baton/model/hybrid_model.h"
#include "baton/train/recipe.h"

namespace baton {

struct LoadedModel {
  train::Recipe recipe; ///< as the checkpoint holds it, every choice resolved
  std::unique_ptr<model::HybridModel> model;
  std::unique_ptr<const Tokenizer> tokenizer;
};

/// The tokenizer is the one in the checkpoint's folder, or else the one that its recipe names.
/// `threads` 0 takes all cores. Throws Error naming the file when there is no whole checkpoint.
LoadedModel load_model(const std::string& path, const std::string& device, int threads);

} // namespace baton
