// SPDX-License-Identifier: Apache-2.0
// The known name that a mistyped one most likely meant.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// Least number of inserted, deleted, replaced or swapped neighbouring characters that turn `from`
/// into `to` (optimal string alignment).
std::size_t edit_distance(std::string_view from, std::string_view to);

/// The member of `known` nearest to `name`, or "" if none is near enough to be a misspelling of it.
/// A dotted name is also near to one with the same last part: "lr" to "train.lr".
std::string nearest_name(std::string_view name, const std::vector<std::string>& known);

} // namespace baton
