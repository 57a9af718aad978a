// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/tuning.h"

#include <string>

#include <gtest/gtest.h>

#include "baton/base/error.h"

namespace baton::ops {
namespace {

std::string refusal_of(const std::string& toml) {
  Tuning tuning;
  try {
    read_config(tuning, toml, "sm_90a.toml");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Tuning, AnArchitectureWithoutATableTakesTheNearest) {
  EXPECT_EQ(&tuning_of("sm_90a"), &tuning_of("sm_90"));
  EXPECT_EQ(config_to_toml(tuning_of("sm_103a")), config_to_toml(tuning_of("sm_90a")));
  EXPECT_EQ(config_to_toml(tuning_of("sm_80")), config_to_toml(tuning_of("sm_90a")));
}

TEST(Tuning, ClassesGoByBytes) {
  const Tuning& tuning = tuning_of("sm_90a");
  EXPECT_EQ(&tuning_of("sm_90a", kLargeInput), &tuning.small);
  EXPECT_EQ(&tuning_of("sm_90a", kLargeInput + 1), &tuning.large);
}

TEST(Tuning, ATableIsReadBackAsPrinted) {
  Tuning tuning;
  tuning.small.norm.block_threads = 96;
  tuning.large.conv.gradient_longest_run = 1024;
  Tuning read;
  read_config(read, config_to_toml(tuning), "printed");
  EXPECT_EQ(config_to_toml(read), config_to_toml(tuning));
}

TEST(Tuning, BadTablesAreRefusedInOneLine) {
  for (const std::string toml :
       {"[small.norm]\nblock_threads = 16\n",
        "[small.norm]\nblock_thread = 128\n",
        "[large.rotary]\nheads = \"many\"\n",
        "[large.conv]\nwarps = 1e9\n",
        "[middle.norm]\nblock_threads = 128\n",
        "[small.norm\n"}) {
    const std::string message = refusal_of(toml);
    EXPECT_NE(message.find("sm_90a.toml"), std::string::npos) << toml << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(Tuning, AnOverrideHoldsWhileItLives) {
  Tuning tuning;
  tuning.small.rotary.heads = 3;
  {
    const TuningOverride held(tuning);
    EXPECT_EQ(tuning_of("sm_90a").small.rotary.heads, 3);
  }
  EXPECT_NE(tuning_of("sm_90a").small.rotary.heads, 3);
}

} // namespace
} // namespace baton::ops
