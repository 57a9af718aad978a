// SPDX-License-Identifier: Apache-2.0
#include "baton/base/progress.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <optional>
#include <utility>

#include <unistd.h>

#include "baton/base/env.h"
#include "baton/base/log.h"

namespace baton {
namespace {

// A terminal is rewritten this often; more would only flicker.
constexpr double kLineInterval = 0.25;
constexpr double kFirstLinesInterval = 10.0;
constexpr double kLastLinesInterval = 60.0;
// The rate is averaged over about this many seconds.
constexpr double kRateWindow = 10.0;
constexpr double kLeastMeasured = 0.2;

template <class... Args>
std::string formatted(const char* format, Args... args) {
  std::array<char, 64> buffer{};
  const int size = std::snprintf(buffer.data(), buffer.size(), format, args...);
  return {buffer.data(), std::min(buffer.size() - 1, static_cast<std::size_t>(std::max(size, 0)))};
}

} // namespace

ProgressStyle default_progress_style() {
  const std::optional<std::string> wanted = read_env(kEnvProgress);
  if (wanted == "off") {
    return ProgressStyle::kOff;
  }
  if (wanted == "line") {
    return ProgressStyle::kLine;
  }
  if (wanted == "lines") {
    return ProgressStyle::kLines;
  }
  return isatty(STDERR_FILENO) == 1 ? ProgressStyle::kLine : ProgressStyle::kLines;
}

Progress::Progress(ProgressOptions options, ProgressStyle style, Clock clock)
    : options_(std::move(options)), style_(style), clock_(std::move(clock)), start_(clock_()) {
  if (options_.rate_unit.empty()) {
    options_.rate_unit = options_.unit;
  }
  measured_done_ = options_.first;
  done_ = options_.first;
  interval_ = style_ == ProgressStyle::kLine ? kLineInterval : kFirstLinesInterval;
  next_print_ = style_ == ProgressStyle::kLine ? 0.0 : interval_;
}

Progress::~Progress() {
  if (style_ == ProgressStyle::kLine) {
    keep_status_line();
  }
}

double Progress::seconds_since_start() const {
  return std::chrono::duration<double>(clock_() - start_).count();
}

void Progress::measure(std::int64_t done) {
  const double now = seconds_since_start();
  const double elapsed = now - measured_at_;
  if (elapsed < kLeastMeasured || done <= measured_done_) {
    return;
  }
  const double current = static_cast<double>(done - measured_done_) / elapsed;
  const double keep = measured_at_ == 0.0 ? 0.0 : std::exp(-elapsed / kRateWindow);
  rate_ = keep * rate_ + (1.0 - keep) * current;
  measured_at_ = now;
  measured_done_ = done;
}

void Progress::update(std::int64_t done, std::string_view note) {
  done_ = done;
  note_ = note;
  measure(done);
  const double now = seconds_since_start();
  if (style_ == ProgressStyle::kOff || now < next_print_) {
    return;
  }
  print(done);
  if (style_ == ProgressStyle::kLines) {
    interval_ = std::min(kLastLinesInterval, interval_ * 1.5);
  }
  next_print_ = now + interval_;
}

void Progress::finish() {
  if (style_ == ProgressStyle::kOff) {
    return;
  }
  if (style_ == ProgressStyle::kLine || printed_ != done_) {
    print(done_);
  }
  if (style_ == ProgressStyle::kLine) {
    keep_status_line();
  }
}

void Progress::print(std::int64_t done) {
  printed_ = done;
  if (style_ == ProgressStyle::kLine) {
    show_status_line(line(done, note_));
  } else {
    log_info(line(done, note_));
  }
}

std::string Progress::line(std::int64_t done, std::string_view note) const {
  std::string text = options_.label + ": " + std::to_string(done);
  if (options_.total > 0) {
    text += "/" + std::to_string(options_.total);
  }
  text += " " + options_.unit;
  if (!note.empty()) {
    text += ", " + std::string(note);
  }
  if (rate_ > 0.0) {
    text += ", " + count_text(rate()) + " " + options_.rate_unit + "/s";
  }
  if (options_.total > done && rate_ > 0.0) {
    text += ", " + duration_text(static_cast<double>(options_.total - done) / rate_) + " left";
  } else if (options_.total > 0 && done >= options_.total) {
    text += ", " + duration_text(seconds_since_start());
  }
  return text + ", " + count_text(static_cast<double>(resident_bytes())) + "B memory";
}

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds > 1e9) {
    return "?";
  }
  const auto whole = static_cast<long long>(std::llround(std::max(seconds, 0.0)));
  if (whole < 60) {
    return formatted("%llds", whole);
  }
  if (whole < 3600) {
    return formatted("%lldm%02llds", whole / 60, whole % 60);
  }
  if (whole < 86400) {
    return formatted("%lldh%02lldm", whole / 3600, whole % 3600 / 60);
  }
  return formatted("%lldd%02lldh", whole / 86400, whole % 86400 / 3600);
}

std::string count_text(double count) {
  constexpr std::array<const char*, 5> kSuffixes = {"", "k", "M", "G", "T"};
  std::size_t i = 0;
  while (std::abs(count) >= 999.5 && i + 1 < kSuffixes.size()) {
    count /= 1000.0;
    ++i;
  }
  const bool whole = i == 0 && count == std::floor(count);
  return formatted(
             whole || std::abs(count) >= 99.95 ? "%.0f"
             : std::abs(count) >= 9.995        ? "%.1f"
                                               : "%.2f",
             count) +
         kSuffixes[i];
}

std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t pages = 0;
  std::int64_t resident = 0;
  if (!(file >> pages >> resident)) {
    return 0;
  }
  return resident * sysconf(_SC_PAGESIZE);
}

} // namespace baton
