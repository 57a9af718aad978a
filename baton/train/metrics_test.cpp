// SPDX-License-Identifier: Apache-2.0
#include "baton/train/metrics.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "baton/base/error.h"
#include "baton/base/file.h"

namespace baton::train {
namespace {

namespace fs = std::filesystem;

class MetricsTest : public ::testing::Test {
 protected:
  MetricsTest() {
    std::string pattern = (fs::temp_directory_path() / "baton-test-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    path_ = folder_ / "metrics.jsonl";
  }
  ~MetricsTest() override { fs::remove_all(folder_); }

  std::string text() const { return read_file(path_.string()); }

  void write_steps(std::int64_t first, std::int64_t last) {
    MetricsFile file(path_);
    for (std::int64_t step = first; step <= last; ++step) {
      file.append({step, 1.0 / static_cast<double>(step), 1e-3, 0.5, 1000});
    }
    file.sync();
  }

  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> all;
    for (const StepMetrics& metrics : read_metrics(path_)) {
      all.push_back(metrics.step);
    }
    return all;
  }

  fs::path folder_;
  fs::path path_;
};

using Metrics = MetricsTest;

TEST_F(Metrics, TheLineIsPlainJson) {
  EXPECT_EQ(
      to_json_line({7, 1.5, 0.0003, 0.25, 12000}),
      R"({"step":7,"loss":1.5,"lr":3e-04,"grad_norm":0.25,"tokens_per_second":12000})");
  const auto json = nlohmann::json::parse(to_json_line({7, 1.5, 3e-4, 0.25, 12000, 1.75}));
  EXPECT_EQ(json["valid_loss"], 1.75);
}

TEST_F(Metrics, DoublesReadBackToTheBit) {
  std::uint64_t random = 1;
  for (int i = 0; i < 20'000; ++i) {
    random = random * 6364136223846793005ULL + 1442695040888963407ULL;
    double value = 0;
    std::memcpy(&value, &random, sizeof(value));
    if (!std::isfinite(value)) {
      continue;
    }
    const auto metrics = parse_json_line(to_json_line({1, value, -value, 0.1, 1e300, value}));
    ASSERT_TRUE(metrics.has_value());
    EXPECT_EQ(std::memcmp(&metrics->loss, &value, sizeof(value)), 0);
    EXPECT_EQ(metrics->lr, -value);
    EXPECT_EQ(metrics->grad_norm, 0.1);
    EXPECT_EQ(*metrics->valid_loss, value);
  }
}

TEST_F(Metrics, WhatIsNotFiniteIsNull) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::string line = to_json_line({1, std::nan(""), 0, infinity, 0});
  EXPECT_NE(line.find("\"loss\":null"), std::string::npos);
  EXPECT_TRUE(std::isnan(parse_json_line(line)->loss));
  EXPECT_TRUE(std::isnan(parse_json_line(line)->grad_norm));
}

TEST_F(Metrics, AppendingGoesOnWhereAFileEnds) {
  EXPECT_TRUE(steps().empty());
  write_steps(1, 3);
  write_steps(4, 5);
  EXPECT_EQ(steps(), (std::vector<std::int64_t>{1, 2, 3, 4, 5}));
}

TEST_F(Metrics, AResumeCutsLaterAndTornLines) {
  write_steps(1, 6);
  const std::string whole = text();
  truncate_to_step(path_, 6);
  EXPECT_EQ(text(), whole);
  write_file_atomically(path_.string(), whole + R"({"step":7,"lo)");
  truncate_to_step(path_, 9);
  EXPECT_EQ(text(), whole);
  truncate_to_step(path_, 4);
  EXPECT_EQ(steps(), (std::vector<std::int64_t>{1, 2, 3, 4}));
  write_steps(5, 6);
  EXPECT_EQ(text(), whole);
  truncate_to_step(path_, 0);
  EXPECT_EQ(text(), "");
  EXPECT_NO_THROW(truncate_to_step(folder_ / "none", 4));
}

TEST_F(Metrics, CutAtAnyByteOnlyWholeLinesCount) {
  write_steps(1, 3);
  const std::string whole = text();
  for (std::size_t size = 0; size <= whole.size(); size += 3) {
    write_file_atomically(path_.string(), whole.substr(0, size));
    truncate_to_step(path_, 100);
    const std::string kept = text();
    EXPECT_EQ(whole.compare(0, kept.size(), kept), 0);
    EXPECT_TRUE(kept.empty() || kept.back() == '\n');
    EXPECT_GE(whole.find('\n', kept.size()), size); // no whole line was dropped
  }
}

TEST_F(Metrics, ForeignLinesAreNotLines) {
  for (const char* line :
       {"", "{}", "3", "null", "[]", R"({"step":"1"})", R"({"step":1,"loss":"x"})", "\xff{"}) {
    EXPECT_FALSE(parse_json_line(line).has_value()) << line;
  }
}

TEST_F(Metrics, AFullDiskIsARunError) {
  MetricsFile full("/dev/full");
  try {
    full.append({});
    FAIL();
  } catch (const RunError& error) {
    EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos);
  }
  EXPECT_THROW(MetricsFile(folder_ / "no" / "file"), RunError);
}

} // namespace
} // namespace baton::train
