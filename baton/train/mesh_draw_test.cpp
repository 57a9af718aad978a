// SPDX-License-Identifier: Apache-2.0
// A few draws for every run of the tests.
#include "baton/train/mesh_draw.h"

namespace baton::train {
namespace {

class MeshDraws : public testing::TestWithParam<std::uint64_t> {};

TEST_P(MeshDraws, EqualOneRank) {
  expect_equals_one_rank(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Seed, MeshDraws, testing::Range<std::uint64_t>(0, 16));

} // namespace
} // namespace baton::train
