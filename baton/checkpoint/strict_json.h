// SPDX-License-Identifier: Apache-2.0
// JSON from files that may be damaged or hostile: no duplicate keys, no deep nesting.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace baton::checkpoint {

/// Parses `text` as one JSON value. Throws `Error` with the place of a syntax error, the name of a
/// key that stands twice in one object, or when values nest deeper than 64 levels.
nlohmann::json parse_strict_json(std::string_view text);

/// `text` in double quotes, escaped and cut so that it fits into a message of one line.
std::string in_quotes(std::string_view text);

} // namespace baton::checkpoint
