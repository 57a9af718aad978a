// SPDX-License-Identifier: Apache-2.0
// The "normalizer" of a tokenizer.json.
#pragma once

#include <memory>
#include <string>

#include "baton/data/json_node.h"

namespace baton {

/// A text on its way through a normalizer.
struct NormalizedText {
  std::string text; ///< valid UTF-8
  /// Whether its first character comes from the first one of the original text.
  bool keeps_start = true;
};

/// Rewrites a text before it is cut. Immutable.
class TextNormalizer {
 public:
  virtual ~TextNormalizer() = default;
  virtual void normalize(NormalizedText& text) const = 0;
};

/// Throws Error that names the file for a kind or an option that is not supported.
std::unique_ptr<const TextNormalizer> make_text_normalizer(const JsonNode& node);

} // namespace baton
