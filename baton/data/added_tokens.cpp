// SPDX-License-Identifier: Apache-2.0
#include "baton/data/added_tokens.h"

#include <algorithm>
#include <utility>

#include "baton/base/error.h"
#include "baton/data/unicode.h"

namespace baton {
namespace {

bool ends_with_word(std::string_view text) {
  if (text.empty()) {
    return false;
  }
  std::size_t last = unicode::previous_character(text, text.size());
  return unicode::is_word(unicode::next_code_point(text, last));
}

bool begins_with_word(std::string_view text) {
  std::size_t offset = 0;
  return !text.empty() && unicode::is_word(unicode::next_code_point(text, offset));
}

// Where the white space begins that ends at `end`, and ends that begins at `begin`.
std::size_t begin_of_space(std::string_view text, std::size_t end) {
  while (end > 0) {
    const std::size_t last = unicode::previous_character(text, end);
    std::size_t offset = last;
    if (!unicode::is_whitespace(unicode::next_code_point(text, offset))) {
      break;
    }
    end = last;
  }
  return end;
}

std::size_t end_of_space(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    std::size_t offset = begin;
    if (!unicode::is_whitespace(unicode::next_code_point(text, offset))) {
      break;
    }
    begin = offset;
  }
  return begin;
}

AddedToken read_token(const JsonNode& node) {
  AddedToken token;
  token.content = node.at("content").string();
  token.id = static_cast<std::int32_t>(node.at("id").integer(Vocabulary::kLargestId));
  token.single_word = node.at("single_word").boolean();
  token.strips_left = node.at("lstrip").boolean();
  token.strips_right = node.at("rstrip").boolean();
  token.normalized = node.at("normalized").boolean();
  token.special = node.at("special").boolean();
  return token;
}

} // namespace

AddedTokens::AddedTokens(
    const JsonNode& node,
    const Vocabulary& vocabulary,
    const TextNormalizer* normalizer) {
  // Ids as tokenizers gives them: those of the model's vocabulary, or the next free ones in the
  // order of the list. A file that says otherwise would mean other tokens there than here.
  auto next_id = static_cast<std::int64_t>(vocabulary.count());
  for (const JsonNode& entry : node.list()) {
    AddedToken token = read_token(entry);
    if (token.content.empty()) {
      continue;
    }
    const auto known = vocabulary.id_of(token.content);
    const std::int64_t id = known ? *known : next_id++;
    if (id != token.id) {
      entry.fail(
          "gives " + in_quotes(token.content) + " the id " + std::to_string(token.id) +
          ", but its place in the vocabulary is " + std::to_string(id));
    }
    token.normalized_content = token.content;
    if (token.normalized && normalizer != nullptr) {
      NormalizedText text{token.content};
      normalizer->normalize(text);
      token.normalized_content = text.text;
    }
    if (!by_id_.emplace(token.id, tokens_.size()).second) {
      entry.fail("is a second token of id " + std::to_string(token.id));
    }
    if (token.special) {
      special_.insert(token.content);
    }
    tokens_.push_back(std::move(token));
  }
  original_ = make_finder(false);
  normalized_ = make_finder(true);
}

AddedTokens::Finder AddedTokens::make_finder(bool normalized) const {
  Finder finder;
  std::vector<std::pair<std::string, std::int32_t>> keys;
  for (const AddedToken& token : tokens_) {
    const std::string& text = normalized ? token.normalized_content : token.content;
    if (token.normalized == normalized && !text.empty()) {
      finder.first_bytes[static_cast<unsigned char>(text[0])] = true;
      keys.emplace_back(text, token.id);
    }
  }
  finder.empty = keys.empty();
  finder.trie = PrefixTrie(std::move(keys));
  return finder;
}

const AddedToken* AddedTokens::find(std::int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

void AddedTokens::split(std::string_view text, const Finder& finder, std::vector<Part>& parts)
    const {
  parts.clear();
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size() && !finder.empty;) {
    std::size_t length = 0;
    std::int32_t id = 0;
    if (finder.first_bytes[static_cast<unsigned char>(text[at])]) {
      finder.trie.find_prefixes(text.substr(at), [&](std::size_t size, std::int32_t value) {
        length = size;
        id = value;
      });
    }
    if (length == 0) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + length;
    at = end;
    const AddedToken& token = *find(id);
    if (token.single_word &&
        (ends_with_word(text.substr(0, begin)) || begins_with_word(text.substr(end)))) {
      continue;
    }
    if (token.strips_left) {
      begin = std::max(begin_of_space(text, begin), done);
    }
    if (token.strips_right) {
      end = end_of_space(text, end);
    }
    if (done < begin) {
      parts.push_back({done, begin, std::nullopt});
    }
    parts.push_back({begin, end, id});
    done = end;
  }
  if (done < text.size()) {
    parts.push_back({done, text.size(), std::nullopt});
  }
}

} // namespace baton
