// SPDX-License-Identifier: Apache-2.0
#include "baton/data/unicode.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <new>

#include <utf8proc.h>

#include "baton/data/unicode_tables.h"

namespace baton::unicode {
namespace {

// The entry that holds a code point, or nullptr.
template <class Entry>
const Entry* find(const Entry* table, std::size_t size, std::uint32_t code_point) {
  const Entry* entry = std::upper_bound(
      table, table + size, code_point, [](std::uint32_t c, const Entry& e) { return c < e.first; });
  if (entry == table || code_point > (--entry)->last) {
    return nullptr;
  }
  return entry;
}

// The blocks of 256 code points that a table has entries in, so that most need no search.
template <class Entry>
class Blocks {
 public:
  Blocks(const Entry* table, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) {
      for (std::uint32_t block = table[i].first >> 8; block <= table[i].last >> 8; ++block) {
        present_[block] = true;
      }
    }
  }
  bool has(std::uint32_t code_point) const { return present_[code_point >> 8]; }

 private:
  std::array<bool, 0x1100> present_{};
};

utf8proc_option_t options_of(NormalForm form) {
  int options = UTF8PROC_STABLE;
  options |=
      form == NormalForm::kC || form == NormalForm::kKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  options |= form == NormalForm::kKC || form == NormalForm::kKD ? UTF8PROC_COMPAT : 0;
  return static_cast<utf8proc_option_t>(options);
}

void append_normalized(std::string& out, std::string_view text, utf8proc_option_t options) {
  if (text.empty()) {
    return;
  }
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size()),
      &result,
      options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  if (size < 0) {
    throw std::bad_alloc(); // the text is valid, so nothing else can fail
  }
  out.append(reinterpret_cast<const char*>(result), static_cast<std::size_t>(size));
}

} // namespace

std::uint32_t next_code_point(std::string_view text, std::size_t& offset) {
  const auto byte = [&](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[offset + i]));
  };
  const std::uint32_t first = byte(0);
  std::uint32_t code_point = first;
  const std::size_t size = character_size(text[offset]);
  if (size == 2) {
    code_point = (first & 0x1F) << 6 | (byte(1) & 0x3F);
  } else if (size == 3) {
    code_point = (first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  } else if (size == 4) {
    code_point =
        (first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  }
  offset += size;
  return code_point;
}

std::size_t previous_character(std::string_view text, std::size_t end) {
  do {
    --end;
  } while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

void append_code_point(std::string& text, std::uint32_t code_point) {
  const auto add = [&text](std::uint32_t byte) { text += static_cast<char>(byte); };
  if (code_point < 0x80) {
    add(code_point);
  } else if (code_point < 0x800) {
    add(0xC0 | code_point >> 6);
    add(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    add(0xE0 | code_point >> 12);
    add(0x80 | (code_point >> 6 & 0x3F));
    add(0x80 | (code_point & 0x3F));
  } else {
    add(0xF0 | code_point >> 18);
    add(0x80 | (code_point >> 12 & 0x3F));
    add(0x80 | (code_point >> 6 & 0x3F));
    add(0x80 | (code_point & 0x3F));
  }
}

bool is_whitespace(std::uint32_t c) {
  return c == ' ' || (c >= 0x9 && c <= 0xD) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_numeric(std::uint32_t code_point) {
  if (code_point < 0x80) {
    return code_point >= '0' && code_point <= '9';
  }
  return find(kNumeric, kNumericSize, code_point) != nullptr;
}

bool is_punctuation(std::uint32_t code_point) {
  return find(kPunctuation, kPunctuationSize, code_point) != nullptr;
}

bool is_word(std::uint32_t code_point) {
  return find(kWord, kWordSize, code_point) != nullptr;
}

bool is_mark(std::uint32_t code_point) {
  return find(kMarks, kMarksSize, code_point) != nullptr;
}

std::string lowercase(std::string_view text) {
  constexpr std::uint32_t kCapitalDottedI = 0x130;
  std::string lower;
  lower.reserve(text.size());
  for (std::size_t offset = 0; offset < text.size();) {
    const std::uint32_t c = next_code_point(text, offset);
    const Shift* shift = find(kLowercase, kLowercaseSize, c);
    if (c == kCapitalDottedI) {
      lower += "i\xCC\x87"; // with a dot above of its own
    } else if (shift != nullptr && (c - shift->first) % shift->stride == 0) {
      append_code_point(lower, c + static_cast<std::uint32_t>(shift->shift));
    } else {
      append_code_point(lower, c);
    }
  }
  return lower;
}

std::string normalize(std::string_view text, NormalForm form) {
  static const Blocks<Range> blocks(kNotNormalised, kNotNormalisedSize);
  const utf8proc_option_t options = options_of(form);
  std::string out;
  std::size_t done = 0;
  // What newer versions gave a decomposition or a place among marks is a letter like others here:
  // it stays, and nothing moves over it or joins with it.
  for (std::size_t offset = 0; offset < text.size();) {
    const std::size_t begin = offset;
    const std::uint32_t c = next_code_point(text, offset);
    if (blocks.has(c) && find(kNotNormalised, kNotNormalisedSize, c) != nullptr) {
      append_normalized(out, text.substr(done, begin - done), options);
      out += text.substr(begin, offset - begin);
      done = offset;
    }
  }
  append_normalized(out, text.substr(done), options);
  return out;
}

std::uint32_t known_to_onig(std::uint32_t code_point) {
  static const Blocks<StandIn> blocks(kNewer, kNewerSize);
  if (!blocks.has(code_point)) {
    return code_point;
  }
  const StandIn* entry = find(kNewer, kNewerSize, code_point);
  return entry == nullptr ? code_point : entry->stand_in;
}

std::size_t grapheme_size(std::string_view text) {
  std::size_t offset = 0;
  std::uint32_t before = next_code_point(text, offset);
  utf8proc_int32_t state = 0;
  while (offset < text.size()) {
    std::size_t next = offset;
    const std::uint32_t c = next_code_point(text, next);
    if (utf8proc_grapheme_break_stateful(
            static_cast<utf8proc_int32_t>(before), static_cast<utf8proc_int32_t>(c), &state)) {
      break;
    }
    before = c;
    offset = next;
  }
  return offset;
}

} // namespace baton::unicode
