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

/// Whether the bytes are whole characters only.
bool is_valid_utf8(std::string_view bytes);

/// The bytes as valid UTF-8, U+FFFD for what forms no character, as take_characters() has it; at
/// the end for the beginning of one, too.
std::string to_valid_utf8(std::string_view bytes);

} // namespace baton
