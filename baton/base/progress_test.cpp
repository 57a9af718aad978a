// SPDX-License-Identifier: Apache-2.0
#include "baton/base/progress.h"

#include <chrono>
#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "baton/base/env.h"
#include "baton/base/log.h"

namespace baton {
namespace {

// Time that the test moves.
class ManualClock {
 public:
  Progress::Clock clock() {
    return [this] { return now_; };
  }
  void advance(double seconds) {
    now_ += std::chrono::duration_cast<std::chrono::steady_clock::duration>(
        std::chrono::duration<double>(seconds));
  }

 private:
  std::chrono::steady_clock::time_point now_;
};

ProgressOptions train_options() {
  ProgressOptions options;
  options.label = "train";
  options.total = 100;
  options.rate_unit = "tokens";
  options.rate_scale = 4096;
  return options;
}

TEST(Progress, RateAndTimeLeftComeFromThisProcess) {
  ManualClock clock;
  ProgressOptions options = train_options();
  options.first = 50;
  Progress progress(options, ProgressStyle::kOff, clock.clock());
  clock.advance(2.0);
  progress.update(54, "loss 2.50");
  EXPECT_DOUBLE_EQ(progress.rate(), 2.0 * 4096);
  const std::string line = progress.line(54, "loss 2.50");
  EXPECT_EQ(line.find("train: 54/100 steps, loss 2.50, 8.19k tokens/s, 23s left, "), 0U) << line;
}

TEST(Progress, LinesComeEverMoreRarely) {
  ManualClock clock;
  Progress progress(train_options(), ProgressStyle::kLines, clock.clock());
  testing::internal::CaptureStderr();
  for (int step = 1; step <= 100; ++step) {
    clock.advance(1.0);
    progress.update(step);
  }
  progress.finish();
  const std::string text = testing::internal::GetCapturedStderr();
  // At 10, 25, 48 and 81 seconds, and the last.
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5) << text;
  EXPECT_NE(text.find("train: 100/100 steps"), std::string::npos) << text;
  EXPECT_EQ(text.find('\r'), std::string::npos);
}

TEST(Progress, MessagesStandAboveTheLine) {
  ManualClock clock;
  testing::internal::CaptureStderr();
  {
    Progress progress(train_options(), ProgressStyle::kLine, clock.clock());
    progress.update(1);
    log_warning("two\nlines");
  }
  const std::string text = testing::internal::GetCapturedStderr();
  const std::string expected = "\r\x1b[Kwarning: two lines\ntrain: 1/100 steps";
  EXPECT_NE(text.find(expected), std::string::npos) << text;
  EXPECT_EQ(text.back(), '\n');
}

TEST(Progress, OffPrintsNothing) {
  testing::internal::CaptureStderr();
  {
    Progress progress(train_options(), ProgressStyle::kOff);
    progress.update(100);
    progress.finish();
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Progress, UnknownTotalHasNoTimeLeft) {
  ManualClock clock;
  ProgressOptions options;
  options.label = "read";
  options.unit = "bytes";
  Progress progress(options, ProgressStyle::kOff, clock.clock());
  clock.advance(1.0);
  progress.update(1000);
  EXPECT_EQ(progress.line(1000, "").find("read: 1000 bytes, 1.00k bytes/s, "), 0U);
  EXPECT_EQ(progress.line(1000, "").find("left"), std::string::npos);
}

TEST(Progress, Texts) {
  EXPECT_EQ(duration_text(-1.0), "0s");
  EXPECT_EQ(duration_text(59.6), "1m00s");
  EXPECT_EQ(duration_text(3 * 60 + 12), "3m12s");
  EXPECT_EQ(duration_text(2 * 3600 + 5 * 60), "2h05m");
  EXPECT_EQ(duration_text(3 * 86400 + 4 * 3600), "3d04h");
  EXPECT_EQ(duration_text(std::numeric_limits<double>::infinity()), "?");
  EXPECT_EQ(count_text(0), "0");
  EXPECT_EQ(count_text(950), "950");
  EXPECT_EQ(count_text(2.345), "2.35");
  EXPECT_EQ(count_text(999.6), "1.00k");
  EXPECT_EQ(count_text(12345), "12.3k");
  EXPECT_EQ(count_text(4.56e6), "4.56M");
  EXPECT_EQ(count_text(7.89e9), "7.89G");
  EXPECT_EQ(count_text(999960), "1.00M");
  EXPECT_GT(resident_bytes(), 1000000);
}

TEST(Progress, EnvironmentTableNamesEveryVariable) {
  const std::string table = print_env_reference();
  for (const EnvVariable& variable : env_variables()) {
    EXPECT_NE(table.find("| `" + std::string(variable.name) + "` |"), std::string::npos);
  }
  setenv("BATON_PROGRESS", "", 1);
  EXPECT_FALSE(read_env(kEnvProgress).has_value());
  setenv("BATON_PROGRESS", "off", 1);
  EXPECT_EQ(default_progress_style(), ProgressStyle::kOff);
  unsetenv("BATON_PROGRESS");
}

} // namespace
} // namespace baton
