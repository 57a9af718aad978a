// SPDX-License-Identifier: Apache-2.0
// Finds stop texts in a stream and holds back what might become one.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

class StopText {
 public:
  /// Throws Error for an empty stop text.
  explicit StopText(std::vector<std::string> stops);

  /// Takes the next piece and returns what may be shown: all that cannot be part of a stop text.
  /// Once a stop text is found, returns what stood before it, then nothing.
  std::string push(std::string_view piece);

  /// What was held back, at the end of the stream.
  std::string finish();

  bool found() const { return found_; }

 private:
  std::size_t held_size() const;

  std::vector<std::string> stops_;
  std::string pending_;
  bool found_ = false;
};

} // namespace baton
