// SPDX-License-Identifier: Apache-2.0
// Checkpoints that several ranks write together, and any number of ranks reads.
#include <filesystem>
#include <string>
#include <thread>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/checkpoint/load.h"
#include "baton/checkpoint/save.h"
#include "baton/checkpoint/scratch_folder.h"
#include "baton/parallel/peer_error.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::checkpoint {

namespace testing {
extern void (*before_write)(const std::string& file);
} // namespace testing

namespace {

namespace fs = std::filesystem;

const std::vector<std::int64_t> kShape{5, 2, 7};

at::Tensor whole_state() {
  return at::arange(70, at::kFloat).view(kShape);
}

parallel::TensorSlice slice_of(int rank, int ranks) {
  const std::int64_t begin = 70 * rank / ranks;
  const std::int64_t end = 70 * (rank + 1) / ranks;
  if (ranks == 1) {
    return {whole_state()};
  }
  return {whole_state().flatten().slice(0, begin, end).clone(), kShape, begin};
}

void save_on(const fs::path& run, int ranks, std::int64_t step) {
  parallel::run_ranks({{1, 1, ranks, 1}}, [&](const parallel::Mesh& mesh) {
    CheckpointContents contents;
    contents.step = step;
    contents.program = "0.0.0";
    contents.recipe = "# recipe\n";
    contents.parameters["w." + std::to_string(mesh.rank())] = at::full({3}, mesh.rank());
    contents.optimizer_states["w.exp_avg"] = slice_of(mesh.rank(), ranks);
    save_checkpoint(contents, {.run_folder = run, .ranks = mesh.all()});
  });
}

TEST(SharedSave, WhatAnyRanksWroteAnyRanksRead) {
  const ScratchFolder run;
  for (const int writers : {1, 2, 3, 4}) {
    save_on(run.path(), writers, writers);
    const auto checkpoint = open_newest(run.path(), Scope::kWhole, nullptr);
    ASSERT_TRUE(checkpoint && checkpoint->step() == writers);
    EXPECT_EQ(checkpoint->manifest().parameters.size(), static_cast<std::size_t>(writers));
    for (const int readers : {1, 2, 3, 5}) {
      for (int rank = 0; rank < readers; ++rank) {
        const parallel::TensorSlice target = slice_of(rank, readers);
        for (const parallel::TensorPiece& piece : target.pieces) {
          piece.values.fill_(-1.0);
        }
        checkpoint->read_optimizer_states({{"w.exp_avg", target}});
        const parallel::TensorSlice expected = slice_of(rank, readers);
        for (std::size_t i = 0; i < target.pieces.size(); ++i) {
          EXPECT_TRUE(at::equal(target.pieces[i].values, expected.pieces[i].values))
              << writers << " to " << readers;
        }
      }
    }
  }
}

TEST(SharedSave, SlicesAreChecked) {
  const ScratchFolder run;
  save_on(run.path(), 2, 1);
  const auto checkpoint = open_newest(run.path(), Scope::kWhole, nullptr);
  ASSERT_TRUE(checkpoint);
  const at::Tensor values = at::zeros({7});
  EXPECT_THROW(checkpoint->read_optimizer_states({{"w.exp_avg", {values, {5, 7, 2}, 0}}}), Error);
  EXPECT_THROW(
      checkpoint->read_optimizer_states({{"w.exp_avg", {values.to(at::kDouble), kShape, 0}}}),
      Error);
}

void fail_on_rank_1(const std::string& file) {
  if (file == "optimizer-00001.safetensors") {
    throw RunError(file + ": cannot write: No space left on device");
  }
}

TEST(SharedSave, OneRanksFailureLeavesTheCheckpointBefore) {
  const ScratchFolder run;
  save_on(run.path(), 3, 1);
  testing::before_write = fail_on_rank_1;
  EXPECT_THROW(save_on(run.path(), 3, 2), RunError);
  testing::before_write = nullptr;
  const auto checkpoint = open_newest(run.path(), Scope::kWhole, nullptr);
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ(checkpoint->step(), 1);
  int folders = 0;
  for (const auto& file : fs::directory_iterator(checkpoints_folder(run.path()))) {
    folders += file.exists() ? 1 : 0;
  }
  EXPECT_EQ(folders, 1);
}

TEST(SharedSave, ARankThatIsGoneLeavesNone) {
  const ScratchFolder run;
  EXPECT_THROW(
      parallel::run_ranks(
          {{1, 1, 2, 1}},
          [&](const parallel::Mesh& mesh) {
            mesh.all().barrier(); // all have met
            if (mesh.rank() == 1) {
              return;
            }
            CheckpointContents contents;
            contents.optimizer_states["w.exp_avg"] = slice_of(0, 2);
            save_checkpoint(contents, {.run_folder = run.path(), .ranks = mesh.all()});
          },
          std::chrono::seconds(5)),
      parallel::PeerError);
  EXPECT_TRUE(fs::is_empty(checkpoints_folder(run.path())));
}

} // namespace
} // namespace baton::checkpoint
