// SPDX-License-Identifier: Apache-2.0
// Regular expressions as tokenizer files write them: Oniguruma, the engine of PyPI's tokenizers.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// A part of a text: what matched, or what stands between matches. Matches may be empty.
struct TextSpan {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool matched = false;
};

/// A compiled pattern; immutable, so that several threads may use one.
///
/// Debian 12 has Oniguruma 6.9.8. The text's code points that are newer than its tables (Unicode
/// 14) match as older ones of the same category do, as if the tables were of Unicode 16, and
/// [:punct:] means \p{P}\p{S}: so say Oniguruma 6.9.10 and PyPI's tokenizers.
class Regex {
 public:
  /// Throws Error with the engine's reason for a pattern that is not valid.
  explicit Regex(const std::string& pattern);
  ~Regex();
  Regex(Regex&& other) noexcept;
  Regex& operator=(Regex&& other) noexcept;

  /// A pattern that matches this text and nothing else.
  static Regex literal(std::string_view text);

  /// Cuts a valid UTF-8 text, from front to back, into matches and what is between them. An empty
  /// text is one unmatched span. Throws Error when a search takes too many steps.
  void split(std::string_view text, std::vector<TextSpan>& spans) const;

 private:
  struct Program;
  std::unique_ptr<Program> program_;
};

} // namespace baton
