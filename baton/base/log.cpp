// SPDX-License-Identifier: Apache-2.0
#include "baton/base/log.h"

#include <array>
#include <cerrno>
#include <mutex>
#include <optional>
#include <string>

#include <sys/ioctl.h>
#include <unistd.h>

#include "baton/base/env.h"
#include "baton/base/error.h"

namespace baton {
namespace {

constexpr std::array<const char*, 4> kLevelNames = {"debug", "info", "warning", "error"};
constexpr std::string_view kClearLine = "\r\x1b[K";

// The state of stderr, which a process has once.
struct Terminal {
  std::mutex mutex;
  std::string status;
};

Terminal& terminal() {
  static Terminal state;
  return state;
}

// Messages are lost rather than a run if stderr is closed.
void write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = write(STDERR_FILENO, text.data(), text.size());
    if (count > 0) {
      text.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno != EINTR) {
      return;
    }
  }
}

// A line longer than the terminal is wide would wrap, and could not be taken away again.
std::string cut_to_terminal(std::string line) {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 &&
      line.size() >= size.ws_col) {
    line.resize(size.ws_col - 1);
  }
  return line;
}

LogLevel least_level() {
  const std::optional<std::string> wanted = read_env(kEnvLog);
  for (std::size_t i = 0; wanted && i < kLevelNames.size(); ++i) {
    if (*wanted == kLevelNames[i]) {
      return static_cast<LogLevel>(i);
    }
  }
  return LogLevel::kInfo;
}

// "rank 3: " for one of several processes.
std::string& log_name() {
  static std::string name;
  return name;
}

std::string one_line(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (c == '\n' || c == '\r') {
      c = ' ';
    }
  }
  return line;
}

} // namespace

void log(LogLevel level, std::string_view message) {
  static const LogLevel least = least_level();
  if (level < least || (!log_name().empty() && level == LogLevel::kInfo)) {
    return;
  }
  std::string line = one_line(with_log_name(message)) + "\n";
  if (level != LogLevel::kInfo) {
    line = std::string(kLevelNames[static_cast<std::size_t>(level)]) + ": " + line;
  }
  const std::lock_guard<std::mutex> lock(terminal().mutex);
  if (!terminal().status.empty()) {
    line = std::string(kClearLine) + line + terminal().status;
  }
  write_all(line);
}

void set_log_name(std::string_view who) {
  log_name() = std::string(who) + ": ";
}

std::string with_log_name(std::string_view message) {
  const bool has_it = message.substr(0, log_name().size()) == log_name();
  return (has_it ? "" : log_name()) + std::string(message);
}

void show_status_line(std::string_view text) {
  const std::lock_guard<std::mutex> lock(terminal().mutex);
  terminal().status = cut_to_terminal(one_line(text));
  write_all(std::string(kClearLine) + terminal().status);
}

void keep_status_line() {
  const std::lock_guard<std::mutex> lock(terminal().mutex);
  if (!terminal().status.empty()) {
    write_all("\n");
  }
  terminal().status.clear();
}

} // namespace baton
