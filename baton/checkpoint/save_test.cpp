// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/save.h"

#include <chrono>
#include <csignal>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/checkpoint/example_contents.h"
#include "baton/checkpoint/load.h"
#include "baton/checkpoint/scratch_folder.h"

namespace baton::checkpoint {

namespace testing {
extern void (*before_write)(const std::string& file);
extern void (*before_change)(const std::string& what);
} // namespace testing

namespace {

namespace fs = std::filesystem;

int g_countdown = 0; // points of a save until the chosen one

void kill_at_zero(const std::string& point) {
  if (g_countdown-- == 0) {
    kill(getpid(), SIGKILL);
  }
}

void fail_at_zero(const std::string& point) {
  if (g_countdown-- == 0) {
    throw RunError(point + ": cannot write: No space left on device");
  }
}

void set_probe(void (*probe)(const std::string&)) {
  testing::before_write = probe;
  testing::before_change = probe;
}

// Runs `action` in a child. Returns the child's status as waitpid gives it.
int in_child(const std::function<void()>& action) {
  const pid_t child = fork();
  if (child == 0) {
    try {
      action();
    } catch (const RunError&) {
      _exit(1);
    } catch (...) {
      _exit(3);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& file : fs::directory_iterator(folder)) {
    names.insert(file.path().filename().string());
  }
  return names;
}

// The step of the newest whole checkpoint, all of whose values were compared; -1 when there is
// none.
std::int64_t newest_step(const fs::path& run_folder) {
  const std::optional<Checkpoint> newest = open_newest(run_folder, Scope::kWhole, nullptr);
  if (!newest) {
    return -1;
  }
  EXPECT_TRUE(is_example(*newest));
  return newest->step();
}

TEST(Save, WritesTheNamedFilesAndReadsBack) {
  const ScratchFolder run;
  const fs::path folder = save_checkpoint(example_contents(120), {run.path() / "deep" / "run"});
  EXPECT_EQ(folder, run.path() / "deep" / "run" / "checkpoints" / "step_00000120");
  EXPECT_EQ(
      names_in(folder),
      (std::set<std::string>{
          "manifest.json",
          "optimizer-00000.safetensors",
          "parameters-00000.safetensors",
          "recipe.toml",
          "train_state.json"}));
  EXPECT_EQ(names_in(folder.parent_path()), std::set<std::string>{"step_00000120"});
  EXPECT_TRUE(is_example(Checkpoint(folder, Scope::kWhole)));
}

TEST(Save, ATokenizersFilesGoAlong) {
  const ScratchFolder run;
  CheckpointContents contents = example_contents(7);
  contents.tokenizer_files = {{"tokenizer.json", "{}"}, {"tokenizer_config.json", "[]"}};
  const fs::path folder = save_checkpoint(contents, {run.path()});
  EXPECT_EQ(
      names_in(folder / "tokenizer"),
      (std::set<std::string>{"tokenizer.json", "tokenizer_config.json"}));
  EXPECT_EQ(read_file((folder / "tokenizer" / "tokenizer_config.json").string()), "[]");
  EXPECT_TRUE(is_example(Checkpoint(folder, Scope::kWhole)));
}

TEST(Save, KeepsTheLastOnes) {
  const ScratchFolder run;
  for (const std::int64_t step : {10, 20, 30, 40}) {
    save_checkpoint(example_contents(step), {run.path(), 2});
  }
  const fs::path folder = checkpoints_folder(run.path());
  EXPECT_EQ(names_in(folder), (std::set<std::string>{"step_00000030", "step_00000040"}));
  save_checkpoint(example_contents(50), {run.path(), 0});
  EXPECT_EQ(names_in(folder).size(), 3U);
  save_checkpoint(example_contents(60), {run.path(), 1});
  EXPECT_EQ(names_in(folder), std::set<std::string>{"step_00000060"});
}

TEST(Save, DamagedOnesDoNotCountAsKept) {
  const ScratchFolder run;
  for (const std::int64_t step : {10, 20, 30}) {
    save_checkpoint(example_contents(step), {run.path()});
  }
  const fs::path folder = checkpoints_folder(run.path());
  fs::resize_file(folder / "step_00000030" / "parameters-00000.safetensors", 100);
  save_checkpoint(example_contents(40), {run.path(), 2});
  EXPECT_EQ(
      names_in(folder), (std::set<std::string>{"step_00000020", "step_00000030", "step_00000040"}));
}

TEST(Save, LaterStepsOfAnAbandonedLineStay) {
  const ScratchFolder run;
  save_checkpoint(example_contents(100), {run.path()});
  save_checkpoint(example_contents(20), {run.path(), 1});
  save_checkpoint(example_contents(30), {run.path(), 1});
  EXPECT_EQ(
      names_in(checkpoints_folder(run.path())),
      (std::set<std::string>{"step_00000030", "step_00000100"}));
}

TEST(Save, ReplacesACheckpointOfTheSameStep) {
  const ScratchFolder run;
  const fs::path folder = save_checkpoint(example_contents(7), {run.path()});
  fs::remove(folder / "manifest.json");
  write_bytes(folder / "foreign", "x");
  save_checkpoint(example_contents(7), {run.path(), 1});
  EXPECT_EQ(newest_step(run.path()), 7);
  EXPECT_EQ(names_in(checkpoints_folder(run.path())), std::set<std::string>{"step_00000007"});
  EXPECT_EQ(names_in(folder).count("foreign"), 0U);
}

TEST(Save, RemovesWhatDeadWritersLeftAndNothingElse) {
  const ScratchFolder run;
  const fs::path folder = checkpoints_folder(run.path());
  fs::create_directories(folder / ".step_00000005.tmp-1" / "inner");
  fs::create_directories(folder / ".step_00000004.removed-99");
  fs::create_directories(folder / "mine");
  fs::create_directories(folder / "step_7");
  write_bytes(folder / ".hidden", "x");
  save_checkpoint(example_contents(9), {run.path(), 1});
  EXPECT_EQ(
      names_in(folder), (std::set<std::string>{".hidden", "mine", "step_00000009", "step_7"}));
}

TEST(Save, RefusesASecondWriter) {
  const ScratchFolder run;
  save_checkpoint(example_contents(1), {run.path()});
  const int other = open(checkpoints_folder(run.path()).c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(flock(other, LOCK_EX), 0);
  EXPECT_THROW(save_checkpoint(example_contents(2), {run.path()}), RunError);
  close(other);
  EXPECT_NO_THROW(save_checkpoint(example_contents(2), {run.path()}));
}

// Kills a save before each write and each change of the folder in turn.
TEST(Save, KilledAtAnyPointAWholeCheckpointRemains) {
  const CheckpointContents first = example_contents(10);
  const CheckpointContents again = example_contents(10);
  const CheckpointContents next = example_contents(20);
  for (const CheckpointContents* contents : {&again, &next}) {
    const ScratchFolder run;
    save_checkpoint(first, {run.path()});
    int points = 0;
    for (bool killed = true; killed; ++points) {
      const int status = in_child([&] {
        g_countdown = points;
        set_probe(kill_at_zero);
        save_checkpoint(*contents, {run.path(), 1});
      });
      killed = WIFSIGNALED(status);
      ASSERT_TRUE(killed || WEXITSTATUS(status) == 0);
      const std::int64_t step = newest_step(run.path());
      ASSERT_TRUE(step == first.step || step == contents->step);
    }
    EXPECT_EQ(newest_step(run.path()), contents->step);
    EXPECT_GE(points, 8); // header and data twice, three texts, publish
    EXPECT_EQ(names_in(checkpoints_folder(run.path())).size(), 1U);
  }
}

TEST(Save, KilledAtRandomMomentsAWholeCheckpointRemains) {
  constexpr int kTries = 40;
  constexpr int kMostTries = 400; // of a machine too busy to finish one save in 40
  const ScratchFolder run;
  // Delays follow the time of a save, so that a loaded machine sees kills inside of saves as well.
  const auto begin = std::chrono::steady_clock::now();
  save_checkpoint(example_contents(0), {run.path()});
  const auto one_save = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - begin);
  unsigned random = 12345;
  std::int64_t last = 0;
  for (int i = 0; i < kTries || (last == 0 && i < kMostTries); ++i) {
    int started[2];
    ASSERT_EQ(pipe(started), 0);
    const pid_t child = fork();
    if (child == 0) {
      close(started[1]); // tells the parent
      for (std::int64_t step = last + 1; step < last + 100; ++step) {
        save_checkpoint(example_contents(step), {run.path(), 2});
      }
      _exit(0);
    }
    close(started[1]);
    char none = 0;
    ASSERT_EQ(read(started[0], &none, 1), 0);
    close(started[0]);
    random = random * 1664525 + 1013904223;
    usleep(random % (4 * static_cast<unsigned>(one_save.count())));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const std::int64_t step = newest_step(run.path());
    ASSERT_GE(step, last);
    last = step;
  }
  EXPECT_GT(last, 0);
}

TEST(Save, AFailedWriteLeavesTheOldCheckpointAndNoTrace) {
  const ScratchFolder run;
  save_checkpoint(example_contents(10), {run.path()});
  int failures = 0;
  for (bool failed = true; failed; failures += failed ? 1 : 0) {
    g_countdown = failures;
    set_probe(fail_at_zero);
    failed = !message_of([&] { save_checkpoint(example_contents(20), {run.path()}); }).empty();
    set_probe(nullptr);
    if (failed) {
      EXPECT_EQ(names_in(checkpoints_folder(run.path())), std::set<std::string>{"step_00000010"});
      EXPECT_EQ(newest_step(run.path()), 10);
    }
  }
  EXPECT_GE(failures, 8);
  EXPECT_EQ(newest_step(run.path()), 20);
}

TEST(Save, AFileThatCannotGrowIsOneRunError) {
  const ScratchFolder run;
  save_checkpoint(example_contents(10), {run.path()});
  const CheckpointContents contents = example_contents(20);
  for (const rlim_t limit : {0UL, 100UL, 1000UL, 2000UL, 3000UL}) {
    const int status = in_child([&] {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit small{limit, limit};
      setrlimit(RLIMIT_FSIZE, &small);
      try {
        save_checkpoint(contents, {run.path()});
      } catch (const RunError& error) {
        const bool one_line = std::string(error.what()).find('\n') == std::string::npos;
        const bool named =
            std::string(error.what()).find("cannot write: File too large") != std::string::npos;
        _exit(one_line && named ? 1 : 2);
      }
    });
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 1) << limit;
    EXPECT_EQ(names_in(checkpoints_folder(run.path())), std::set<std::string>{"step_00000010"});
    EXPECT_EQ(newest_step(run.path()), 10);
  }
}

} // namespace
} // namespace baton::checkpoint
