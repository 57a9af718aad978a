// SPDX-License-Identifier: Apache-2.0
// The index of a model in shards: which file holds which tensor. Free of libtorch, so that it can
// be fuzzed.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace baton::checkpoint::hf {

/// The tensors that an index names, and the file of each. Throws `Error` for text that is no index
/// and for a name that is not one of a file in the folder.
std::map<std::string, std::string> parse_shard_index(std::string_view text);

} // namespace baton::checkpoint::hf
