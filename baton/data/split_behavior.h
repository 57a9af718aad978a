// SPDX-License-Identifier: Apache-2.0
// What becomes of the matches of a split.
#pragma once

#include <vector>

#include "baton/data/json_node.h"
#include "baton/data/regex.h"

namespace baton {

enum class SplitBehavior {
  kRemoved,            ///< matches go
  kIsolated,           ///< each match is a part of its own
  kMergedWithPrevious, ///< a match ends the part before it
  kMergedWithNext,     ///< a match begins the part after it
  kContiguous,         ///< neighbouring matches are one part
};

/// Throws Error that names the file and the place.
SplitBehavior read_split_behavior(const JsonNode& node);

/// Turns spans that cover a text into its parts, in place: those with `matched` set are to go.
void apply_split_behavior(SplitBehavior behavior, std::vector<TextSpan>& spans);

} // namespace baton
