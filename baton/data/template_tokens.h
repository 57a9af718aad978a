// SPDX-License-Identifier: Apache-2.0
// The "post_processor" of a tokenizer.json: which tokens stand around a text.
#pragma once

#include "baton/data/json_node.h"
#include "baton/data/special_tokens.h"

namespace baton {

/// The token that the template of a single text puts before it, if there is one. Throws Error that
/// names the file for a kind that is not supported.
SpecialTokens read_template_tokens(const JsonNode& node, std::int64_t vocab_size);

} // namespace baton
