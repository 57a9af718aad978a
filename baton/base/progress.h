// SPDX-License-Identifier: Apache-2.0
// How far long work is: done, rate, time left, memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace baton {

/// What a progress report counts.
struct ProgressOptions {
  std::string label;           ///< "train", "build demo.bin"
  std::string unit = "steps";  ///< of done and total
  std::int64_t total = 0;      ///< 0: unknown, then no time left is shown
  std::int64_t first = 0;      ///< done before this process began (a resumed run)
  std::string rate_unit;       ///< "tokens"; empty: the unit itself
  std::int64_t rate_scale = 1; ///< rate units per unit: tokens per step
};

enum class ProgressStyle { kOff, kLine, kLines };

/// kLine on a terminal and kLines otherwise, unless BATON_PROGRESS says which.
ProgressStyle default_progress_style();

/// Reports on stderr: one line that is rewritten on a terminal, plain lines otherwise, first every
/// 10 seconds and then ever more rarely, up to every minute.
class Progress {
 public:
  using Clock = std::function<std::chrono::steady_clock::time_point()>;

  explicit Progress(
      ProgressOptions options,
      ProgressStyle style = default_progress_style(),
      Clock clock = std::chrono::steady_clock::now);
  /// Ends the line, whether the work is complete or not.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` of total; `note` is shown behind the count, for example "loss 2.31". Cheap: most calls
  /// print nothing.
  void update(std::int64_t done, std::string_view note = "");

  /// Prints the last state once more and ends the line.
  void finish();

  /// The line for a state at this moment.
  std::string line(std::int64_t done, std::string_view note) const;

  /// Rate units per second over the last seconds.
  double rate() const { return rate_ * static_cast<double>(options_.rate_scale); }

 private:
  double seconds_since_start() const;
  void measure(std::int64_t done);
  void print(std::int64_t done);

  ProgressOptions options_;
  ProgressStyle style_;
  Clock clock_;
  std::chrono::steady_clock::time_point start_;
  double measured_at_ = 0.0;       // seconds since the start
  std::int64_t measured_done_ = 0; // at that moment
  double rate_ = 0.0;              // units per second, smoothed
  double next_print_ = 0.0;
  double interval_ = 10.0;
  std::int64_t done_ = 0;
  std::int64_t printed_ = -1;
  std::string note_;
};

/// "4s", "3m12s", "2h05m", "3d04h".
std::string duration_text(double seconds);

/// "950", "12.3k", "4.56M", "7.89G".
std::string count_text(double count);

/// Bytes of memory this process holds (resident set), 0 where the system does not tell.
std::int64_t resident_bytes();

} // namespace baton
