// SPDX-License-Identifier: Apache-2.0
#include "baton/data/token_model.h"

#include "baton/base/error.h"

namespace baton {

std::unique_ptr<const TokenModel> make_token_model(const JsonNode& node) {
  // Files of older versions name no kind; merges tell a BPE model.
  const auto named = node.find("type");
  const std::string type = named ? named->string() : node.find("merges") ? "BPE" : "Unigram";
  if (type == "BPE") {
    return make_bpe_model(node);
  }
  if (type == "Unigram") {
    return make_unigram_model(node);
  }
  throw Error(
      node.file() + ": model " + in_quotes(type) + " is not supported; known: BPE, Unigram");
}

} // namespace baton
