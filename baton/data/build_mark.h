// SPDX-License-Identifier: Apache-2.0
// The mark of a dataset that is being built, which a killed build leaves behind.
#pragma once

#include <string>

namespace baton {

/// PREFIX.building, locked by the process that builds and removed when it is done. One build of a
/// prefix runs at a time; where the mark of a dead one lies, what that one wrote may be replaced.
class BuildMark {
 public:
  /// Whether a build of `prefix` is under way or was killed.
  static bool exists(const std::string& prefix);

  /// Throws Error when another process builds `prefix`, or the mark cannot be made.
  explicit BuildMark(const std::string& prefix);
  /// Removes the mark.
  ~BuildMark();
  BuildMark(const BuildMark&) = delete;
  BuildMark& operator=(const BuildMark&) = delete;

  /// Whether a build that was killed had left the mark.
  bool was_left() const { return was_left_; }

 private:
  bool lock();

  std::string path_;
  int descriptor_ = -1;
  bool was_left_ = false;
};

} // namespace baton
