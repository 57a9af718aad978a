// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "baton/base/log.h"

namespace baton {
namespace {

TEST(LogName, StandsBeforeMessagesOnceAndKeepsInformationBack) {
  EXPECT_EQ(with_log_name("disk full"), "disk full");
  set_log_name("rank 3");
  EXPECT_EQ(with_log_name("disk full"), "rank 3: disk full");
  EXPECT_EQ(with_log_name("rank 3: disk full"), "rank 3: disk full");
  testing::internal::CaptureStderr();
  log_info("steps");
  log_warning("slow");
  log_error("rank 3: gone");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "warning: rank 3: slow\nerror: rank 3: gone\n");
}

} // namespace
} // namespace baton
