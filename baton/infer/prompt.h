// SPDX-License-Identifier: Apache-2.0
// From a text to the tokens that generation starts from and ends with.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "baton/data/tokenizer.h"

namespace baton::infer {

/// The ids of a prompt, behind the token that begins a text in vocabularies that have one.
std::vector<std::int64_t> prompt_tokens(const Tokenizer& tokenizer, std::string_view text);

/// The ids that end what is generated.
std::vector<std::int64_t> end_tokens(const Tokenizer& tokenizer);

} // namespace baton::infer
