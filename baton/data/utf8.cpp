// SPDX-License-Identifier: Apache-2.0
#include "baton/data/utf8.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace baton {
namespace {

// What may follow a first byte (the Unicode Standard, table 3-7).
struct Rule {
  std::size_t length; // bytes of the character, 0 if none begins so
  unsigned char low;  // range of the second byte; all later ones are 80..BF
  unsigned char high;
};

Rule rule_for(unsigned char first) {
  if (first < 0x80) {
    return {1, 0, 0};
  }
  if (first >= 0xC2 && first <= 0xDF) {
    return {2, 0x80, 0xBF};
  }
  if (first >= 0xE0 && first <= 0xEF) {
    const unsigned char low = first == 0xE0 ? 0xA0 : 0x80;
    const unsigned char high = first == 0xED ? 0x9F : 0xBF; // no surrogates
    return {3, low, high};
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const unsigned char low = first == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = first == 0xF4 ? 0x8F : 0xBF; // up to U+10FFFF
    return {4, low, high};
  }
  return {0, 0, 0};
}

} // namespace

std::string take_characters(std::string& bytes) {
  std::string text;
  std::size_t begin = 0;
  while (begin < bytes.size()) {
    const Rule rule = rule_for(static_cast<unsigned char>(bytes[begin]));
    std::size_t good = 1;
    while (good < rule.length && begin + good < bytes.size()) {
      const auto next = static_cast<unsigned char>(bytes[begin + good]);
      const bool second = good == 1;
      if (next < (second ? rule.low : 0x80) || next > (second ? rule.high : 0xBF)) {
        break;
      }
      ++good;
    }
    if (good == rule.length) {
      text.append(bytes, begin, good);
    } else if (begin + good == bytes.size() && rule.length != 0) {
      break; // the rest may still come
    } else {
      text += kReplacementCharacter;
    }
    begin += good;
  }
  bytes.erase(0, begin);
  return text;
}

bool is_valid_utf8(std::string_view bytes) {
  std::size_t begin = 0;
  while (begin < bytes.size()) {
    // Most text is ASCII: eight bytes at a time.
    std::uint64_t word = 0;
    while (begin + sizeof(word) <= bytes.size()) {
      std::memcpy(&word, bytes.data() + begin, sizeof(word));
      if ((word & 0x8080808080808080U) != 0) {
        break;
      }
      begin += sizeof(word);
    }
    if (begin == bytes.size()) {
      break;
    }
    const Rule rule = rule_for(static_cast<unsigned char>(bytes[begin]));
    if (rule.length == 0 || begin + rule.length > bytes.size()) {
      return false;
    }
    for (std::size_t i = 1; i < rule.length; ++i) {
      const auto next = static_cast<unsigned char>(bytes[begin + i]);
      if (next < (i == 1 ? rule.low : 0x80) || next > (i == 1 ? rule.high : 0xBF)) {
        return false;
      }
    }
    begin += rule.length;
  }
  return true;
}

std::string to_valid_utf8(std::string_view bytes) {
  std::string rest(bytes);
  std::string text = take_characters(rest);
  if (!rest.empty()) {
    text += kReplacementCharacter;
  }
  return text;
}

} // namespace baton
