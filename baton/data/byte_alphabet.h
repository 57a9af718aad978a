// SPDX-License-Identifier: Apache-2.0
// The alphabet of byte-level vocabularies: a printable character for each byte.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace baton {

/// The character of a byte: itself where it is printable in Latin-1, else one from U+0100 on. At
/// most two bytes of UTF-8.
std::string_view character_of_byte(unsigned char byte);

/// The bytes that a valid UTF-8 text stands for, unless it holds a character of no byte.
std::optional<std::string> bytes_of_characters(std::string_view text);

} // namespace baton
