// SPDX-License-Identifier: Apache-2.0
#include "baton/data/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "baton/data/unicode.h"

namespace baton {
namespace {

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, 0x200> bytes{}; // by code point, -1 for none

  Alphabet() {
    bytes.fill(-1);
    std::uint32_t next = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      const std::uint32_t code_point = printable ? byte : next++;
      unicode::append_code_point(characters[byte], code_point);
      bytes[code_point] = static_cast<int>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

} // namespace

std::string_view character_of_byte(unsigned char byte) {
  return alphabet().characters[byte];
}

std::optional<std::string> bytes_of_characters(std::string_view text) {
  const Alphabet& known = alphabet();
  std::string bytes;
  bytes.reserve(text.size());
  for (std::size_t offset = 0; offset < text.size();) {
    const std::uint32_t code_point = unicode::next_code_point(text, offset);
    if (code_point >= known.bytes.size() || known.bytes[code_point] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(known.bytes[code_point]);
  }
  return bytes;
}

} // namespace baton
