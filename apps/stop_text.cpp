// SPDX-License-Identifier: Apache-2.0
#include "apps/stop_text.h"

#include <algorithm>
#include <utility>

#include "baton/base/error.h"

namespace baton {

StopText::StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {
  if (std::any_of(stops_.begin(), stops_.end(), [](const auto& stop) { return stop.empty(); })) {
    throw Error("--stop: a stop text must not be empty");
  }
}

std::string StopText::push(std::string_view piece) {
  if (found_) {
    return "";
  }
  pending_ += piece;
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    first = std::min(first, pending_.find(stop));
  }
  if (first != std::string::npos) {
    found_ = true;
    return pending_.substr(0, first);
  }
  const std::size_t shown = pending_.size() - held_size();
  std::string text = pending_.substr(0, shown);
  pending_.erase(0, shown);
  return text;
}

std::string StopText::finish() {
  return found_ ? std::string() : std::exchange(pending_, std::string());
}

// The longest end of what is pending that begins a stop text.
std::size_t StopText::held_size() const {
  std::size_t held = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t size = std::min(stop.size() - 1, pending_.size()); size > held; --size) {
      if (std::string_view(pending_).ends_with(std::string_view(stop).substr(0, size))) {
        held = size;
      }
    }
  }
  return held;
}

} // namespace baton
