// SPDX-License-Identifier: Apache-2.0
#include "baton/data/pre_tokenizer.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "baton/base/error.h"
#include "baton/data/byte_alphabet.h"
#include "baton/data/metaspace.h"
#include "baton/data/regex.h"
#include "baton/data/split_behavior.h"
#include "baton/data/tokenizer_pattern.h"
#include "baton/data/unicode.h"

namespace baton {

char* TextArena::reserve(std::size_t size) {
  constexpr std::size_t kBlockSize = std::size_t{1} << 16;
  if (blocks_.empty() || blocks_.back().size() - used_ < size) {
    blocks_.emplace_back(std::max(size, kBlockSize));
    used_ = 0;
  }
  return blocks_.back().data() + used_;
}

std::string_view TextArena::copy(std::string_view first, std::string_view second) {
  char* room = reserve(first.size() + second.size());
  std::copy(second.begin(), second.end(), std::copy(first.begin(), first.end(), room));
  keep(first.size() + second.size());
  return {room, first.size() + second.size()};
}

void TextArena::clear() {
  // One block stays, so that short texts allocate nothing.
  blocks_.resize(std::min<std::size_t>(blocks_.size(), 1));
  used_ = 0;
}

namespace {

// Cuts each piece by spans that `find` gives and a behaviour.
template <class Find>
void cut_pieces(std::vector<TextPiece>& pieces, SplitBehavior behavior, const Find& find) {
  std::vector<TextPiece> parts;
  parts.reserve(pieces.size() * 2);
  std::vector<TextSpan> spans;
  for (const TextPiece& piece : pieces) {
    find(piece.text, spans);
    apply_split_behavior(behavior, spans);
    for (const TextSpan& span : spans) {
      if (!span.matched && span.begin < span.end) {
        parts.push_back(
            {piece.text.substr(span.begin, span.end - span.begin),
             piece.at_start && span.begin == 0});
      }
    }
  }
  pieces = std::move(parts);
}

// The spans of characters that are of a kind, one each, and of what is between them.
template <class Matches>
void split_characters(std::string_view text, const Matches& matches, std::vector<TextSpan>& spans) {
  spans.clear();
  std::size_t done = 0;
  for (std::size_t offset = 0; offset < text.size();) {
    const std::size_t begin = offset;
    if (matches(unicode::next_code_point(text, offset))) {
      if (done < begin) {
        spans.push_back({done, begin, false});
      }
      spans.push_back({begin, offset, true});
      done = offset;
    }
  }
  if (done < text.size()) {
    spans.push_back({done, text.size(), false});
  }
}

class SplitPreTokenizer final : public PreTokenizer {
 public:
  SplitPreTokenizer(Regex pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void cut(std::vector<TextPiece>& pieces, TextArena&) const override {
    cut_pieces(pieces, behavior_, [this](std::string_view text, std::vector<TextSpan>& spans) {
      pattern_.split(text, spans);
      for (TextSpan& span : spans) {
        span.matched = span.matched != invert_;
      }
    });
  }

 private:
  Regex pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Cuts at characters of a kind.
class CharacterPreTokenizer final : public PreTokenizer {
 public:
  using Kind = bool (*)(std::uint32_t code_point);
  CharacterPreTokenizer(Kind kind, SplitBehavior behavior) : kind_(kind), behavior_(behavior) {}

  void cut(std::vector<TextPiece>& pieces, TextArena&) const override {
    cut_pieces(pieces, behavior_, [this](std::string_view text, std::vector<TextSpan>& spans) {
      split_characters(text, kind_, spans);
    });
  }

 private:
  Kind kind_;
  SplitBehavior behavior_;
};

// Runs of word characters and runs of others, without the white space between them.
class WhitespacePreTokenizer final : public PreTokenizer {
 public:
  void cut(std::vector<TextPiece>& pieces, TextArena&) const override {
    cut_pieces(
        pieces, SplitBehavior::kRemoved, [](std::string_view text, std::vector<TextSpan>& spans) {
          spans.clear();
          int kind_before = -1;
          for (std::size_t offset = 0; offset < text.size();) {
            const std::size_t begin = offset;
            const std::uint32_t c = unicode::next_code_point(text, offset);
            const int kind = unicode::is_word(c) ? 1 : unicode::is_whitespace(c) ? 0 : 2;
            if (kind == kind_before) {
              spans.back().end = offset;
            } else {
              spans.push_back({begin, offset, kind == 0});
              kind_before = kind;
            }
          }
        });
  }
};

// Splits as GPT-2 did, and writes each byte as a character of the byte alphabet.
class ByteLevelPreTokenizer final : public PreTokenizer {
 public:
  ByteLevelPreTokenizer(bool add_prefix_space, bool use_regex)
      : add_prefix_space_(add_prefix_space) {
    if (use_regex) {
      pattern_.emplace(
          R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
    }
  }

  void cut(std::vector<TextPiece>& pieces, TextArena& arena) const override {
    if (add_prefix_space_) {
      for (TextPiece& piece : pieces) {
        if (!piece.text.starts_with(' ')) {
          piece.text = arena.copy(" ", piece.text);
        }
      }
    }
    if (pattern_) {
      cut_pieces(
          pieces,
          SplitBehavior::kIsolated,
          [this](std::string_view text, std::vector<TextSpan>& spans) {
            pattern_->split(text, spans);
          });
    }
    for (TextPiece& piece : pieces) {
      constexpr std::size_t kLongestCharacter = 2;
      char* const room = arena.reserve(piece.text.size() * kLongestCharacter);
      char* end = room;
      for (const char byte : piece.text) {
        const std::string_view character = character_of_byte(static_cast<unsigned char>(byte));
        end = std::copy(character.begin(), character.end(), end);
      }
      const auto size = static_cast<std::size_t>(end - room);
      arena.keep(size);
      piece.text = {room, size};
    }
  }

 private:
  bool add_prefix_space_;
  std::optional<Regex> pattern_;
};

class MetaspacePreTokenizer final : public PreTokenizer {
 public:
  explicit MetaspacePreTokenizer(Metaspace settings) : settings_(std::move(settings)) {}

  void cut(std::vector<TextPiece>& pieces, TextArena& arena) const override {
    for (TextPiece& piece : pieces) {
      piece.text = settings_.replace_spaces(piece.text, piece.at_start, arena);
    }
    if (settings_.split) {
      cut_pieces(
          pieces,
          SplitBehavior::kMergedWithNext,
          [this](std::string_view text, std::vector<TextSpan>& spans) {
            split_characters(
                text, [this](std::uint32_t c) { return c == settings_.code_point; }, spans);
          });
    }
  }

 private:
  Metaspace settings_;
};

class SequencePreTokenizer final : public PreTokenizer {
 public:
  explicit SequencePreTokenizer(std::vector<std::unique_ptr<const PreTokenizer>> parts)
      : parts_(std::move(parts)) {}
  void cut(std::vector<TextPiece>& pieces, TextArena& arena) const override {
    for (const auto& part : parts_) {
      part->cut(pieces, arena);
    }
  }

 private:
  std::vector<std::unique_ptr<const PreTokenizer>> parts_;
};

std::unique_ptr<const PreTokenizer> make_sequence(const JsonNode& node) {
  std::vector<std::unique_ptr<const PreTokenizer>> parts;
  for (const JsonNode& part : node.at("pretokenizers").list()) {
    parts.push_back(make_pre_tokenizer(part));
  }
  return std::make_unique<SequencePreTokenizer>(std::move(parts));
}

} // namespace

std::unique_ptr<const PreTokenizer> make_pre_tokenizer(const JsonNode& node) {
  const std::string& type = node.at("type").string();
  if (type == "ByteLevel") {
    return std::make_unique<ByteLevelPreTokenizer>(
        node.at("add_prefix_space").boolean(), node.boolean_or("use_regex", true));
  }
  if (type == "Digits") {
    return std::make_unique<CharacterPreTokenizer>(
        unicode::is_numeric,
        node.at("individual_digits").boolean() ? SplitBehavior::kIsolated
                                               : SplitBehavior::kContiguous);
  }
  if (type == "Metaspace") {
    return std::make_unique<MetaspacePreTokenizer>(read_metaspace(node));
  }
  if (type == "Punctuation") {
    const auto behavior = node.find("behavior");
    return std::make_unique<CharacterPreTokenizer>(
        unicode::is_punctuation,
        behavior ? read_split_behavior(*behavior) : SplitBehavior::kIsolated);
  }
  if (type == "Sequence") {
    return make_sequence(node);
  }
  if (type == "Split") {
    return std::make_unique<SplitPreTokenizer>(
        read_pattern(node.at("pattern")),
        read_split_behavior(node.at("behavior")),
        node.at("invert").boolean());
  }
  if (type == "Whitespace") {
    return std::make_unique<WhitespacePreTokenizer>();
  }
  if (type == "WhitespaceSplit") {
    return std::make_unique<CharacterPreTokenizer>(unicode::is_whitespace, SplitBehavior::kRemoved);
  }
  throw Error(
      node.file() + ": pre_tokenizer " + in_quotes(type) +
      " is not supported; known: ByteLevel, Digits, Metaspace, Punctuation, Sequence, Split, "
      "Whitespace, WhitespaceSplit");
}

} // namespace baton
