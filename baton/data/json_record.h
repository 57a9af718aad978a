// SPDX-License-Identifier: Apache-2.0
// One line of JSON lines: the texts that a training record holds.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace baton {

/// Either `text`, or `prompt` and `completion`.
struct JsonRecord {
  std::optional<std::string> text;
  std::string prompt;
  std::string completion;
};

/// Reads a JSON object: the string in `field` or, where it has no such field, those in "prompt" and
/// "completion". The rest of the object is checked and forgotten. Throws Error, one line, that says
/// what is wrong and where in the line.
JsonRecord parse_json_record(std::string_view line, const std::string& field);

} // namespace baton
