// SPDX-License-Identifier: Apache-2.0
// The patterns of a tokenizer.json: {"String": "..."} or {"Regex": "..."}.
#pragma once

#include "baton/data/json_node.h"
#include "baton/data/regex.h"

namespace baton {

/// Throws Error that names the file and the place.
Regex read_pattern(const JsonNode& node);

} // namespace baton
