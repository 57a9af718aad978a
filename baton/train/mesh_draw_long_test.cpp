// SPDX-License-Identifier: Apache-2.0
// Draws for some minutes.
#include "baton/train/mesh_draw.h"

namespace baton::train {
namespace {

class MeshDraws : public testing::TestWithParam<std::uint64_t> {};

TEST_P(MeshDraws, EqualOneRank) {
  expect_equals_one_rank(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Seed, MeshDraws, testing::Range<std::uint64_t>(16, 400));

} // namespace
} // namespace baton::train
