// SPDX-License-Identifier: Apache-2.0
// The "model" of a tokenizer.json: from a piece of text to token ids.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "baton/data/json_node.h"
#include "baton/data/vocabulary.h"

namespace baton {

/// Immutable.
class TokenModel {
 public:
  virtual ~TokenModel() = default;

  virtual const Vocabulary& vocabulary() const = 0;
  /// Appends the ids of a piece of valid UTF-8 that is not empty.
  virtual void encode(std::string_view piece, std::vector<std::int32_t>& ids) const = 0;
};

/// Byte pair encoding (Sennrich et al. 2016): joins the pair of symbols whose merge was learnt
/// first, as long as there is one.
std::unique_ptr<const TokenModel> make_bpe_model(const JsonNode& node);

/// The likeliest segmentation under independent tokens (Kudo 2018).
std::unique_ptr<const TokenModel> make_unigram_model(const JsonNode& node);

/// Throws Error that names the file for a kind or an option that is not supported.
std::unique_ptr<const TokenModel> make_token_model(const JsonNode& node);

} // namespace baton
