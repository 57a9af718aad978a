// SPDX-License-Identifier: Apache-2.0
// Properties of code points as PyPI's tokenizers sees them; tools/unicode_tables writes them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace baton::unicode {

struct Range {
  std::uint32_t first;
  std::uint32_t last;
};

/// Every `stride`th code point of a range becomes the one that is `shift` further.
struct Shift {
  std::uint32_t first;
  std::uint32_t last;
  std::uint32_t stride;
  std::int32_t shift;
};

/// Code points that Oniguruma's tables are too old for, and one of the same kind that they hold.
struct StandIn {
  std::uint32_t first;
  std::uint32_t last;
  std::uint32_t stand_in;
};

// Sorted and without overlap; the lowercase of U+0130, two code points, is in none.
extern const Range kNumeric[];
extern const std::size_t kNumericSize;
extern const Range kPunctuation[];
extern const std::size_t kPunctuationSize;
extern const Range kWord[];
extern const std::size_t kWordSize;
extern const Range kMarks[];
extern const std::size_t kMarksSize;
extern const Range kNotNormalised[];
extern const std::size_t kNotNormalisedSize;
extern const Shift kLowercase[];
extern const std::size_t kLowercaseSize;
extern const StandIn kNewer[];
extern const std::size_t kNewerSize;

} // namespace baton::unicode
