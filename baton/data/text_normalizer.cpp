// SPDX-License-Identifier: Apache-2.0
#include "baton/data/text_normalizer.h"

#include <array>
#include <utility>
#include <vector>

#include "baton/base/error.h"
#include "baton/data/charsmap.h"
#include "baton/data/regex.h"
#include "baton/data/tokenizer_pattern.h"
#include "baton/data/unicode.h"
#include "baton/data/utf8.h"

namespace baton {
namespace {

class FormNormalizer final : public TextNormalizer {
 public:
  explicit FormNormalizer(unicode::NormalForm form) : form_(form) {}
  void normalize(NormalizedText& text) const override {
    text.text = unicode::normalize(text.text, form_);
  }

 private:
  unicode::NormalForm form_;
};

class LowercaseNormalizer final : public TextNormalizer {
 public:
  void normalize(NormalizedText& text) const override { text.text = unicode::lowercase(text.text); }
};

class PrependNormalizer final : public TextNormalizer {
 public:
  explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
  void normalize(NormalizedText& text) const override {
    if (!text.text.empty()) {
      text.text.insert(0, prefix_);
    }
  }

 private:
  std::string prefix_;
};

class ReplaceNormalizer final : public TextNormalizer {
 public:
  ReplaceNormalizer(Regex pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  void normalize(NormalizedText& text) const override {
    std::vector<TextSpan> spans;
    pattern_.split(text.text, spans);
    std::string out;
    out.reserve(text.text.size());
    for (const TextSpan& span : spans) {
      if (!span.matched) {
        out.append(text.text, span.begin, span.end - span.begin);
        continue;
      }
      if (span.begin == 0 && span.end > unicode::character_size(text.text[0])) {
        text.keeps_start = false; // the content counts as the last character that it replaces
      }
      out += content_;
    }
    if (!spans.empty() && spans[0].matched && spans[0].end > 0 && content_.empty()) {
      text.keeps_start = false;
    }
    text.text = std::move(out);
  }

 private:
  Regex pattern_;
  std::string content_;
};

class StripNormalizer final : public TextNormalizer {
 public:
  StripNormalizer(bool left, bool right) : left_(left), right_(right) {}

  void normalize(NormalizedText& text) const override {
    const std::string_view all = text.text;
    std::size_t begin = 0;
    for (std::size_t next = 0; left_ && begin < all.size(); begin = next) {
      if (!unicode::is_whitespace(unicode::next_code_point(all, next))) {
        break;
      }
    }
    std::size_t end = all.size();
    while (right_ && end > begin) {
      const std::size_t last = unicode::previous_character(all, end);
      std::size_t offset = last;
      if (!unicode::is_whitespace(unicode::next_code_point(all, offset))) {
        break;
      }
      end = last;
    }
    text.keeps_start = text.keeps_start && begin == 0;
    text.text = std::string(all.substr(begin, end - begin));
  }

 private:
  bool left_;
  bool right_;
};

// Removes marks.
class StripAccentsNormalizer final : public TextNormalizer {
 public:
  void normalize(NormalizedText& text) const override {
    std::string out;
    for (std::size_t offset = 0; offset < text.text.size();) {
      const std::size_t begin = offset;
      if (!unicode::is_mark(unicode::next_code_point(text.text, offset))) {
        out.append(text.text, begin, offset - begin);
      } else if (out.empty()) {
        text.keeps_start = false;
      }
    }
    text.text = std::move(out);
  }
};

class CharsmapNormalizer final : public TextNormalizer {
 public:
  explicit CharsmapNormalizer(Charsmap map) : map_(std::move(map)) {}
  void normalize(NormalizedText& text) const override { text.text = map_.normalize(text.text); }

 private:
  Charsmap map_;
};

class SequenceNormalizer final : public TextNormalizer {
 public:
  explicit SequenceNormalizer(std::vector<std::unique_ptr<const TextNormalizer>> parts)
      : parts_(std::move(parts)) {}
  void normalize(NormalizedText& text) const override {
    for (const auto& part : parts_) {
      part->normalize(text);
    }
  }

 private:
  std::vector<std::unique_ptr<const TextNormalizer>> parts_;
};

std::string from_base64(const JsonNode& node) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string_view text = node.string();
  while (text.ends_with('=')) {
    text.remove_suffix(1);
  }
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) {
      node.fail("is not base64");
    }
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>(bits >> count & 0xFF);
    }
  }
  return bytes;
}

std::unique_ptr<const TextNormalizer> make_charsmap(const JsonNode& node) {
  const std::string bytes = from_base64(node.at("precompiled_charsmap"));
  try {
    return std::make_unique<CharsmapNormalizer>(Charsmap(bytes));
  } catch (const Error& error) {
    throw Error(node.file() + ": normalizer: " + error.what());
  }
}

std::unique_ptr<const TextNormalizer> make_sequence(const JsonNode& node) {
  std::vector<std::unique_ptr<const TextNormalizer>> parts;
  for (const JsonNode& part : node.at("normalizers").list()) {
    parts.push_back(make_text_normalizer(part));
  }
  return std::make_unique<SequenceNormalizer>(std::move(parts));
}

} // namespace

std::unique_ptr<const TextNormalizer> make_text_normalizer(const JsonNode& node) {
  constexpr std::array<std::pair<std::string_view, unicode::NormalForm>, 4> kForms{
      {{"NFC", unicode::NormalForm::kC},
       {"NFD", unicode::NormalForm::kD},
       {"NFKC", unicode::NormalForm::kKC},
       {"NFKD", unicode::NormalForm::kKD}}};
  const std::string& type = node.at("type").string();
  for (const auto& [name, form] : kForms) {
    if (type == name) {
      return std::make_unique<FormNormalizer>(form);
    }
  }
  if (type == "Lowercase") {
    return std::make_unique<LowercaseNormalizer>();
  }
  if (type == "Prepend") {
    return std::make_unique<PrependNormalizer>(node.at("prepend").string());
  }
  if (type == "Replace") {
    return std::make_unique<ReplaceNormalizer>(
        read_pattern(node.at("pattern")), node.at("content").string());
  }
  if (type == "Strip") {
    return std::make_unique<StripNormalizer>(
        node.at("strip_left").boolean(), node.at("strip_right").boolean());
  }
  if (type == "StripAccents") {
    return std::make_unique<StripAccentsNormalizer>();
  }
  if (type == "Precompiled") {
    return make_charsmap(node);
  }
  if (type == "Sequence") {
    return make_sequence(node);
  }
  throw Error(
      node.file() + ": normalizer " + in_quotes(type) +
      " is not supported; known: Lowercase, NFC, NFD, NFKC, NFKD, Precompiled, Prepend, Replace, "
      "Sequence, Strip, StripAccents");
}

} // namespace baton
