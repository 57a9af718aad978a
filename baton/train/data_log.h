// SPDX-License-Identifier: Apache-2.0
// Reports in the log which data a run has seen.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "baton/data/blend.h"
#include "baton/data/loader_state.h"

namespace baton::train {

/// A line for each set at the beginning and the end, and one whenever a set begins another epoch.
class DataLog {
 public:
  DataLog(std::shared_ptr<const Blend> blend, const LoaderState& state);

  /// After each update; `step` counts them from 1.
  void update(const LoaderState& state, std::int64_t step);

  void finish(const LoaderState& state) const;

 private:
  std::shared_ptr<const Blend> blend_;
  std::vector<std::int64_t> epochs_; // of each set, as last reported
};

} // namespace baton::train
