// SPDX-License-Identifier: Apache-2.0
#include "baton/train/loss_curve.h"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace baton::train {
namespace {

// A falling loss with noise, evaluated every 50 steps.
std::vector<StepMetrics> example(std::int64_t steps) {
  std::vector<StepMetrics> all;
  unsigned random = 1;
  for (std::int64_t step = 1; step <= steps; ++step) {
    random = random * 1664525 + 1013904223;
    StepMetrics metrics;
    metrics.step = step;
    const double t = static_cast<double>(step);
    const double clean = 1.45 + 4.1 * std::exp(-t / 25) + 0.6 * std::exp(-t / 200);
    metrics.loss = clean + (random / 4294967296.0 - 0.5) * 0.3;
    if (step % 50 == 0) {
      metrics.valid_loss = clean + 0.04;
    }
    all.push_back(metrics);
  }
  return all;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

// Tags open and close in order, and no number is NaN: enough to keep a viewer from refusing it.
bool is_well_formed(const std::string& svg) {
  std::vector<std::string> open;
  for (std::size_t at = svg.find('<'); at != std::string::npos; at = svg.find('<', at + 1)) {
    const std::size_t end = svg.find('>', at);
    if (end == std::string::npos) {
      return false;
    }
    const std::string tag = svg.substr(at + 1, end - at - 1);
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) {
        return false;
      }
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
  }
  return open.empty() && svg.find("nan") == std::string::npos &&
         svg.find("inf") == std::string::npos;
}

TEST(LossCurve, ShowsBothCurvesAxesAndLastValues) {
  const std::string svg = draw_loss_curve(example(600), "demo <a & b>");
  EXPECT_TRUE(is_well_formed(svg));
  EXPECT_NE(svg.find("demo &lt;a &amp; b&gt;"), std::string::npos);
  EXPECT_NE(svg.find("loss (nats per token)"), std::string::npos);
  EXPECT_NE(svg.find(">step<"), std::string::npos);
  EXPECT_NE(svg.find(">600<"), std::string::npos);
  EXPECT_NE(svg.find("validation"), std::string::npos);
  EXPECT_EQ(count(svg, "<circle"), 13U); // twelve evaluations and the legend
  // For a look at the picture: BATON_TEST_SVG names a file to write it to.
  if (const char* path = std::getenv("BATON_TEST_SVG")) {
    std::ofstream(path) << svg;
  }
}

TEST(LossCurve, RunsOfAnyLengthAreDrawn) {
  for (const std::int64_t steps : {0, 1, 2, 3, 79, 80, 81, 5000}) {
    EXPECT_TRUE(is_well_formed(draw_loss_curve(example(steps), "x"))) << steps;
  }
}

TEST(LossCurve, ALongRunStaysASmallDocument) {
  EXPECT_LT(draw_loss_curve(example(300'000), "x").size(), 150'000U);
}

TEST(LossCurve, ValuesThatAreNotFiniteAreLeftOut) {
  std::vector<StepMetrics> metrics = example(100);
  metrics[10].loss = std::numeric_limits<double>::quiet_NaN();
  metrics[49].valid_loss = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(is_well_formed(draw_loss_curve(metrics, "x")));
}

TEST(LossCurve, EqualLossesStillGetAnAxis) {
  std::vector<StepMetrics> metrics(5);
  for (std::size_t i = 0; i < metrics.size(); ++i) {
    metrics[i].step = static_cast<std::int64_t>(i);
    metrics[i].loss = 2.0;
  }
  const std::string svg = draw_loss_curve(metrics, "x");
  EXPECT_TRUE(is_well_formed(svg));
  EXPECT_NE(svg.find("2.0"), std::string::npos);
}

} // namespace
} // namespace baton::train
