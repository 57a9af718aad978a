// SPDX-License-Identifier: Apache-2.0
#include "baton/data/split_behavior.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

namespace baton {
namespace {

// Joins each span to the one before it where `joins` says so of (span, whether the one before was a
// match); the first has none before it.
template <class Joins>
void join(std::vector<TextSpan>& spans, const Joins& joins) {
  std::size_t count = 0;
  bool previous = false;
  for (const TextSpan span : spans) {
    if (joins(span.matched, previous) && count > 0) {
      TextSpan& last = spans[count - 1];
      last = {std::min(last.begin, span.begin), std::max(last.end, span.end), false};
    } else {
      spans[count++] = {span.begin, span.end, false};
    }
    previous = span.matched;
  }
  spans.resize(count);
}

} // namespace

SplitBehavior read_split_behavior(const JsonNode& node) {
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames{
      {{"Removed", SplitBehavior::kRemoved},
       {"Isolated", SplitBehavior::kIsolated},
       {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
       {"MergedWithNext", SplitBehavior::kMergedWithNext},
       {"Contiguous", SplitBehavior::kContiguous}}};
  for (const auto& [name, behavior] : kNames) {
    if (node.string() == name) {
      return behavior;
    }
  }
  node.fail(
      "must be Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous, not " +
      in_quotes(node.string()));
}

void apply_split_behavior(SplitBehavior behavior, std::vector<TextSpan>& spans) {
  const auto begins_match = [](bool matched, bool previous) { return matched && !previous; };
  switch (behavior) {
    case SplitBehavior::kRemoved:
      break;
    case SplitBehavior::kIsolated:
      for (TextSpan& span : spans) {
        span.matched = false;
      }
      break;
    case SplitBehavior::kMergedWithPrevious:
      join(spans, begins_match);
      break;
    case SplitBehavior::kMergedWithNext:
      std::reverse(spans.begin(), spans.end());
      join(spans, begins_match);
      std::reverse(spans.begin(), spans.end());
      break;
    case SplitBehavior::kContiguous:
      join(spans, [](bool matched, bool previous) { return matched == previous; });
      break;
  }
}

} // namespace baton
