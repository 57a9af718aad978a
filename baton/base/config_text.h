// SPDX-License-Identifier: Apache-2.0
// How values, types and rules of a config read as text.
#pragma once

#include <string>
#include <vector>

#include "baton/base/config.h"

namespace baton {

/// A TOML basic string. Bytes that TOML forbids in one are escaped; UTF-8 passes.
std::string quoted(const std::string& text);

/// The shortest TOML float that reads back to the same bits.
std::string number_text(double value);

/// "a number", "a list of integers", ...
std::string type_text(const FieldValue& value);

/// "in [0, 1]", "at least 1", "one of \"cosine\", \"linear\"", or "" without a rule.
std::string rule_text(const FieldRule& rule);

/// Text for a cell of a Markdown table, which a bare bar would end.
std::string markdown_cell(const std::string& text);

/// A line a key for people: key, meaning, type, allowed values and value.
std::string print_help(const std::vector<ConfigField>& fields);

/// All values as TOML, each key under a comment that tells its meaning, type and allowed values.
std::string print_annotated_toml(const std::vector<ConfigField>& fields);

} // namespace baton
