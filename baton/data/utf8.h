// SPDX-License-Identifier: Apache-2.0
// Whole characters out of bytes.
#pragma once

#include <string>
#include <string_view>

namespace baton {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD"; // U+FFFD

/// Removes from the front of `bytes` all that is decided and returns it as valid UTF-8: whole
/// characters, and U+FFFD for each longest run that begins no character or breaks off (the Unicode
/// Standard, section 3.9, "substitution of maximal subparts"). What remains is empty or the
/// beginning of one character.
std::string take_characters(std::string& bytes);

} // namespace baton
