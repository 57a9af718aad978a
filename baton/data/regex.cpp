// SPDX-License-Identifier: Apache-2.0
#include "baton/data/regex.h"

#include <array>
#include <optional>
#include <utility>

#include <oniguruma.h>

#include "baton/base/error.h"
#include "baton/data/json_node.h"
#include "baton/data/unicode.h"

namespace baton {
namespace {

// Far more than any split of a text takes; a pattern that goes beyond would take for ever.
constexpr unsigned long kMostRetries = 10'000'000;
constexpr std::size_t kLongestPattern = std::size_t{1} << 16;

const OnigUChar* bytes_of(std::string_view text) {
  return reinterpret_cast<const OnigUChar*>(text.data());
}

void initialize_engine() {
  static const int result = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_set_retry_limit_in_match(kMostRetries);
    onig_set_retry_limit_in_search(kMostRetries);
    return onig_initialize(encodings, 1);
  }();
  if (result != ONIG_NORMAL) {
    throw Error("Oniguruma cannot be initialised");
  }
}

std::string reason_of(int code, OnigErrorInfo* info) {
  std::array<OnigUChar, ONIG_MAX_ERROR_MESSAGE_LEN> buffer{};
  const int size = info != nullptr ? onig_error_code_to_str(buffer.data(), code, info)
                                   : onig_error_code_to_str(buffer.data(), code);
  return {reinterpret_cast<const char*>(buffer.data()), static_cast<std::size_t>(size)};
}

// What [:punct:] holds changed after 6.9.8.
std::string with_newer_classes(std::string pattern) {
  constexpr std::string_view kOld = "[:punct:]";
  constexpr std::string_view kNew = "\\p{P}\\p{S}";
  for (std::size_t at = pattern.find(kOld); at != std::string::npos;
       at = pattern.find(kOld, at + kNew.size())) {
    pattern.replace(at, kOld.size(), kNew);
  }
  return pattern;
}

// The text with stand-ins for code points that the engine does not know, if it holds any.
std::optional<std::string> known_text(std::string_view text) {
  std::optional<std::string> known;
  for (std::size_t offset = 0; offset < text.size();) {
    const std::size_t begin = offset;
    // No character of one or two bytes is newer.
    if (static_cast<unsigned char>(text[offset]) < 0xE0) {
      ++offset;
      continue;
    }
    const std::uint32_t code_point = unicode::next_code_point(text, offset);
    const std::uint32_t stand_in = unicode::known_to_onig(code_point);
    if (stand_in != code_point) {
      if (!known) {
        known = std::string(text);
      }
      std::string character;
      unicode::append_code_point(character, stand_in);
      known->replace(begin, offset - begin, character);
    }
  }
  return known;
}

class MatchRegion {
 public:
  MatchRegion() : region_(onig_region_new()) {}
  ~MatchRegion() { onig_region_free(region_, 1); }
  MatchRegion(const MatchRegion&) = delete;
  MatchRegion& operator=(const MatchRegion&) = delete;

  OnigRegion* get() const { return region_; }
  std::size_t begin() const { return static_cast<std::size_t>(region_->beg[0]); }
  std::size_t end() const { return static_cast<std::size_t>(region_->end[0]); }

 private:
  OnigRegion* region_;
};

} // namespace

struct Regex::Program {
  regex_t* compiled = nullptr;
  ~Program() { onig_free(compiled); }
};

Regex::Regex(const std::string& pattern) : program_(std::make_unique<Program>()) {
  initialize_engine();
  if (pattern.size() > kLongestPattern) {
    throw Error("a pattern of " + std::to_string(pattern.size()) + " bytes is too long");
  }
  const std::string newer = with_newer_classes(pattern);
  OnigErrorInfo info{};
  const int code = onig_new(
      &program_->compiled,
      bytes_of(newer),
      bytes_of(newer) + newer.size(),
      ONIG_OPTION_NONE,
      ONIG_ENCODING_UTF8,
      OnigDefaultSyntax,
      &info);
  if (code != ONIG_NORMAL) {
    program_->compiled = nullptr;
    throw Error("not a valid pattern: " + in_quotes(pattern) + ": " + reason_of(code, &info));
  }
}

Regex::~Regex() = default;
Regex::Regex(Regex&& other) noexcept = default;
Regex& Regex::operator=(Regex&& other) noexcept = default;

Regex Regex::literal(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (std::string_view("\\.+*?()|[]{}^$#&-~").find(c) != std::string_view::npos) {
      pattern += '\\';
    }
    pattern += c;
  }
  return Regex(pattern);
}

void Regex::split(std::string_view text, std::vector<TextSpan>& spans) const {
  spans.clear();
  if (text.empty()) {
    spans.push_back({0, 0, false});
    return;
  }
  const std::optional<std::string> known = known_text(text);
  const std::string_view searched = known ? std::string_view(*known) : text;
  const OnigUChar* const begin = bytes_of(searched);
  const OnigUChar* const end = begin + searched.size();
  // Texts come in pieces of a few bytes, for which its allocation would cost more than the search.
  thread_local const MatchRegion region;
  std::size_t done = 0;
  std::size_t from = 0;
  std::optional<std::size_t> last_end;
  while (from <= searched.size()) {
    const int found = onig_search(
        program_->compiled, begin, end, begin + from, end, region.get(), ONIG_OPTION_NONE);
    if (found == ONIG_MISMATCH) {
      break;
    }
    if (found < 0) {
      throw Error("a search by a tokenizer's pattern failed: " + reason_of(found, nullptr));
    }
    if (region.begin() == region.end() && last_end == region.end()) {
      // An empty match at the end of the last one is none; the search goes on a character later.
      from += from < searched.size() ? unicode::character_size(searched[from]) : 1;
      continue;
    }
    from = region.end();
    last_end = from;
    if (done != region.begin()) {
      spans.push_back({done, region.begin(), false});
    }
    spans.push_back({region.begin(), region.end(), true});
    done = region.end();
  }
  if (done != text.size()) {
    spans.push_back({done, text.size(), false});
  }
}

} // namespace baton
