// SPDX-License-Identifier: Apache-2.0
// Which tokens begin and end texts, from the files beside a tokenizer.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

struct SpecialTokens {
  std::optional<std::int32_t> end_of_document;
  std::optional<std::int32_t> beginning_of_text;
  std::optional<std::int32_t> end_of_text;
};

/// Files beside a tokenizer that say so, as far as they exist: tokenizer_config.json,
/// special_tokens_map.json, generation_config.json.
std::vector<std::string> special_token_files(const std::string& tokenizer_path);

/// `known` holds what the tokenizer's own file says; the files beside it go before it.
///
/// end_of_document: the `eos_token` of tokenizer_config.json, of special_tokens_map.json, the first
/// `eos_token_id` of generation_config.json, or a token by a name that is common for it.
/// beginning_of_text: the `bos_token`, where the tokenizer puts one before a text: `add_bos_token`
/// says so, or, where it is not given, the tokenizer's own file. end_of_text: the first
/// `eos_token_id` of generation_config.json, or the same as end_of_document.
/// Throws Error that names the file for a token that the vocabulary has not.
SpecialTokens read_special_tokens(
    const std::string& tokenizer_path,
    const SpecialTokens& known,
    const std::function<std::optional<std::int32_t>(std::string_view)>& id_of,
    std::int64_t vocab_size);

} // namespace baton
