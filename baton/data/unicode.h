// SPDX-License-Identifier: Apache-2.0
// Code points, their properties and their normal forms.
//
// The properties are those that PyPI's tokenizers uses, of whichever Unicode version each of its
// parts holds, so that both split and fold a text alike. All text here is valid UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace baton::unicode {

/// Bytes of the character that begins with this byte.
constexpr std::size_t character_size(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// The code point at an offset, which is moved behind it.
std::uint32_t next_code_point(std::string_view text, std::size_t& offset);

/// The offset of the character that ends at `end`, which is greater than 0.
std::size_t previous_character(std::string_view text, std::size_t end);

void append_code_point(std::string& text, std::uint32_t code_point);

bool is_whitespace(std::uint32_t code_point);
bool is_numeric(std::uint32_t code_point);
bool is_punctuation(std::uint32_t code_point);
bool is_word(std::uint32_t code_point); ///< letter, mark, digit or underscore: \w
bool is_mark(std::uint32_t code_point);

std::string lowercase(std::string_view text);

enum class NormalForm { kC, kD, kKC, kKD };

/// The text in a normal form of Unicode 9, the version that tokenizers normalises by.
std::string normalize(std::string_view text, NormalForm form);

/// A code point of the same category, script (Han or another) and UTF-8 length that Unicode 14
/// knows; most are their own. Oniguruma 6.9.8 has the tables of that version.
std::uint32_t known_to_onig(std::uint32_t code_point);

/// The length of the extended grapheme cluster at the beginning of a text that is not empty.
std::size_t grapheme_size(std::string_view text);

} // namespace baton::unicode
