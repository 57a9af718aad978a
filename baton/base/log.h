// SPDX-License-Identifier: Apache-2.0
// Messages on stderr, whole lines only, that get along with a progress line.
#pragma once

#include <string>
#include <string_view>

namespace baton {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Writes one line to stderr if `level` reaches BATON_LOG. A line break in the message becomes a
/// space. Safe to call from any thread.
void log(LogLevel level, std::string_view message);

inline void log_debug(std::string_view message) {
  log(LogLevel::kDebug, message);
}
inline void log_info(std::string_view message) {
  log(LogLevel::kInfo, message);
}
inline void log_warning(std::string_view message) {
  log(LogLevel::kWarning, message);
}
inline void log_error(std::string_view message) {
  log(LogLevel::kError, message);
}

/// For one of several processes of a run that is not to tell what another tells: messages of this
/// process begin with `who` and a colon, and only warnings and errors are written. To be called
/// before other threads log.
void set_log_name(std::string_view who);

/// A message with the name that was set, unless it begins with it.
std::string with_log_name(std::string_view message);

/// Shows `text` as the last line of a terminal until the next call replaces it; messages appear
/// above it. "" takes it away. For progress only, and for a terminal only.
void show_status_line(std::string_view text);

/// Leaves the status line where it is and starts a new line below it.
void keep_status_line();

} // namespace baton
