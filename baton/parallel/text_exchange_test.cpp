// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/text_exchange.h"

#include <gtest/gtest.h>

#include "baton/parallel/peer_error.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::parallel {
namespace {

TEST(TextExchange, AllHearWhatEachSays) {
  run_ranks({{1, 1, 3, 1}}, [](const Mesh& mesh) {
    const std::string own(static_cast<std::size_t>(5 * mesh.rank()), 'x');
    const std::vector<std::string> all = all_gather_text(mesh.all(), own, c10::kCPU);
    EXPECT_EQ(all, (std::vector<std::string>{"", "xxxxx", "xxxxxxxxxx"}));
  });
  EXPECT_EQ(all_gather_text({}, "alone", c10::kCPU), std::vector<std::string>{"alone"});
}

TEST(TextExchange, WhereOneFailsAllThrow) {
  run_ranks({{1, 1, 3, 1}}, [](const Mesh& mesh) {
    const auto fail_on_1 = [&]() -> std::string {
      if (mesh.rank() == 1) {
        throw Error("its disk is full");
      }
      return "done";
    };
    try {
      do_together(mesh.all(), c10::kCPU, fail_on_1);
      ADD_FAILURE();
    } catch (const PeerError& error) {
      EXPECT_NE(mesh.rank(), 1);
      EXPECT_STREQ(error.what(), "rank 1 stopped: its disk is full");
    } catch (const Error& error) {
      EXPECT_EQ(mesh.rank(), 1);
      EXPECT_STREQ(error.what(), "its disk is full");
    }
    EXPECT_EQ(
        do_together(mesh.all(), c10::kCPU, [] { return std::string("well"); }),
        std::vector<std::string>(3, "well"));
  });
}

} // namespace
} // namespace baton::parallel
