// SPDX-License-Identifier: Apache-2.0
// Where a loader stands in its data: the part of it that a checkpoint keeps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace baton {

/// The place of the next token of one dataset, and what the place refers to.
struct SetState {
  std::int64_t epoch = 0;
  std::int64_t position = 0; ///< of the document within the epoch's order
  std::int64_t offset = 0;   ///< of the token within the document; 0 in all sets but one
  std::int64_t tokens = 0;   ///< handed out so far, over all epochs
  std::int64_t dataset_documents = 0;
  std::int64_t dataset_tokens = 0;
  double share = 1.0; ///< of all tokens that are handed out

  bool operator==(const SetState&) const = default;
};

/// The place of the next token that a loader will hand out.
struct LoaderState {
  std::int64_t microbatch = 0; ///< global index of the next microbatch
  std::uint64_t seed = 0;
  std::vector<SetState> sets; ///< in the order of the blend

  /// Handed out so far, of all sets.
  std::int64_t tokens() const;

  bool operator==(const LoaderState&) const = default;
};

/// One JSON object with the fields above.
std::string to_json(const LoaderState& state);

/// Throws Error when a field is missing or has the wrong type or sign.
LoaderState loader_state_from_json(const std::string& json);

} // namespace baton
