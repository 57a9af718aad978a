// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/mesh.h"

#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::parallel {
namespace {

TEST(MeshShape, DataParallelismIsWhatIsLeft) {
  ParallelConfig config;
  config.cp = 2;
  config.tp = 2;
  const MeshShape shape = make_mesh_shape(config, 12);
  EXPECT_EQ(shape.text(), "pp 1, dp 3, cp 2, tp 2");
  EXPECT_EQ(shape.coordinate(Axis::kTensor, 7), 1);
  EXPECT_EQ(shape.coordinate(Axis::kContext, 7), 1);
  EXPECT_EQ(shape.coordinate(Axis::kData, 7), 1);
  EXPECT_EQ(shape.coordinate(Axis::kPipeline, 7), 0);
}

TEST(MeshShape, RefusesWhatDoesNotDivide) {
  ParallelConfig config;
  config.cp = 3;
  try {
    make_mesh_shape(config, 4);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "parallel: pp x cp x tp must divide the number of ranks: 1 x 3 x 1 vs 4; the nearest "
        "number of "
        "ranks that can be is 3");
  }
}

TEST(Mesh, OneRankMovesNothing) {
  const Mesh mesh;
  const at::Tensor values = at::arange(3, at::kFloat);
  EXPECT_TRUE(at::equal(mesh.all().all_gather(values), values.unsqueeze(0)));
  mesh.all().all_reduce_(values);
  EXPECT_TRUE(at::equal(values, at::arange(3, at::kFloat)));
  EXPECT_EQ(mesh.all().traffic().total(), 0);
  mesh.check_same("version", "1");
}

TEST(Mesh, GroupsHoldTheRanksOfTheirAxis) {
  run_ranks({{1, 2, 3, 1}}, [](const Mesh& mesh) {
    const at::Tensor rank = at::full({1}, mesh.rank(), at::kLong);
    const std::int64_t first_of_cp = mesh.rank() - mesh.coordinate(Axis::kContext);
    EXPECT_TRUE(at::equal(
        mesh.along(Axis::kContext).all_gather(rank).flatten(),
        at::arange(first_of_cp, first_of_cp + 2)));
    EXPECT_TRUE(at::equal(
        mesh.along(Axis::kData).all_gather(rank).flatten(),
        at::arange(mesh.coordinate(Axis::kContext), 6, 2)));
    EXPECT_TRUE(at::equal(mesh.replicas().all_gather(rank).flatten(), at::arange(6)));
    EXPECT_EQ(mesh.along(Axis::kTensor).size(), 1);
  });
}

TEST(Mesh, CollectivesMoveWhatTheySay) {
  run_ranks({{1, 3, 1, 1}}, [](const Mesh& mesh) {
    const Group& group = mesh.along(Axis::kContext);
    const int rank = group.rank();
    for (const at::ScalarType dtype : {at::kBFloat16, at::kDouble}) {
      const at::Tensor own = at::full({2, 2}, rank, dtype);
      const at::Tensor all = group.all_gather(own);
      for (int other = 0; other < 3; ++other) {
        EXPECT_TRUE(at::equal(all[other], at::full({2, 2}, other, dtype)));
      }
      // To rank r go r + 1 rows.
      const at::Tensor rows = at::arange(6, dtype).view({6, 1}) + 10 * rank;
      const std::vector<std::int64_t> in(3, rank + 1);
      const at::Tensor received = group.all_to_all(rows, {1, 2, 3}, in);
      std::vector<at::Tensor> expected;
      for (int other = 0; other < 3; ++other) {
        const std::int64_t first = rank * (rank + 1) / 2;
        expected.push_back(at::arange(first, first + rank + 1, dtype).view({-1, 1}) + 10 * other);
      }
      EXPECT_TRUE(at::equal(received, at::cat(expected)));
    }
    const at::Tensor values = at::arange(6, at::kFloat) * (rank + 1);
    const at::Tensor piece = at::empty({2}, at::kFloat);
    group.start_reduce_scatter(values, piece).wait();
    EXPECT_TRUE(at::equal(piece, (at::arange(6, at::kFloat) * 6).slice(0, 2 * rank, 2 * rank + 2)));
    group.all_reduce_(values);
    EXPECT_TRUE(at::equal(values, at::arange(6, at::kFloat) * 6));
    const at::Tensor told = at::full({1}, rank, at::kLong);
    group.broadcast_(told, 1);
    EXPECT_EQ(told.item<std::int64_t>(), 1);
    EXPECT_EQ(group.traffic().all_reduce, 2 * 2 * 24 / 3);
    group.barrier();
  });
}

TEST(Mesh, NamesTheRankThatDiffers) {
  try {
    run_ranks({{1, 1, 3, 1}}, [](const Mesh& mesh) {
      mesh.check_same("recipe", "same");
      mesh.check_same("version", mesh.rank() == 2 ? "2" : "1");
    });
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "rank 2 has another version than rank 0: \"2\" vs \"1\"");
  }
}

TEST(Mesh, ARankThatStopsIsNamedWithItsReason) {
  try {
    run_ranks({{1, 2, 1, 1}}, [](const Mesh& mesh) {
      if (mesh.rank() == 1) {
        mesh.say_why_stopping("its disk is full");
        return;
      }
      mesh.all().barrier();
    });
    FAIL();
  } catch (const RunError& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.find("rank 0: barrier along all (rank 0 of 2 there) failed: "), 0U) << text;
    EXPECT_NE(text.find(", rank 1 stopped: its disk is full"), std::string::npos) << text;
  }
}

TEST(Mesh, ARankThatNeverComesIsWaitedForUntilTheTimeIsUp) {
  try {
    run_ranks(
        {{1, 2, 1, 1}},
        [](const Mesh& mesh) {
          if (mesh.rank() == 0) {
            mesh.along(Axis::kContext).all_gather(at::zeros({1}));
          } else {
            std::this_thread::sleep_for(std::chrono::seconds(3));
          }
        },
        std::chrono::milliseconds(1500));
    FAIL();
  } catch (const RunError& error) {
    EXPECT_EQ(std::string(error.what()).find("rank 0: all_gather along cp"), 0U) << error.what();
  }
}

} // namespace
} // namespace baton::parallel
