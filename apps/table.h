// SPDX-License-Identifier: Apache-2.0
// Tables on the standard output, for people.
#pragma once

#include <string>
#include <vector>

namespace baton {

/// Prints rows in columns as wide as their widest entry, indented by two; the last one is not
/// padded. All rows have as many entries as the first.
void print_table(const std::vector<std::vector<std::string>>& rows);

} // namespace baton
