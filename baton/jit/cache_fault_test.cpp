// SPDX-License-Identifier: Apache-2.0
// The kernel cache where folder, disk, locks or other processes fail.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "baton/base/error.h"
#include "baton/jit/cache.h"
#include "baton/jit/example_kernels.h"
#include "baton/jit/scratch_folder.h"

namespace baton::jit {

namespace testing {
extern int lock_error;
extern void (*before_step)(const std::string& step);
} // namespace testing

namespace {

// The steps of publishing, as the cache announces them.
const std::vector<std::string> kSteps = {"prepare", "open", "write", "commit", "published"};

std::string g_step; // where the probes below act
int g_compiled = 0;

void kill_at_step(const std::string& step) {
  if (step == g_step) {
    kill(getpid(), SIGKILL);
  }
}

void fail_at_step(const std::string& step) {
  if (step == g_step) {
    throw RunError("tmp: cannot write: Input/output error");
  }
}

CompiledKernel compile(const CompileRequest& request) {
  ++g_compiled;
  return example_kernel(request);
}

KernelCache cache_in(const std::string& folder) {
  return KernelCache(KernelCacheOptions{folder});
}

// Whether a cache gives the right bytes.
bool gives(KernelCache& cache, const std::string& text) {
  const CompileRequest request = example_request(text);
  return cache.get(request, kExampleCompiler, compile)->cubin == example_kernel(request).cubin;
}

// Compiles that a process without anything in memory needs for one kernel; -1 for wrong bytes.
int compiles_for(const std::string& folder, const std::string& text) {
  KernelCache cache = cache_in(folder);
  g_compiled = 0;
  return gives(cache, text) ? g_compiled : -1;
}

std::string entry_path(const std::string& folder, const std::string& text) {
  return folder + "/sm_90a/" + example_key(example_request(text)) + ".kernel";
}

// Runs `action` in a child, which exits with what it returns. Returns the status of waitpid.
int in_child(const std::function<int()>& action) {
  const pid_t child = fork();
  if (child == 0) {
    _exit(action());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

std::size_t count_lines(const std::string& text) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

// Asks for three kernels twice and returns what was logged.
std::string log_of_three(KernelCache& cache) {
  ::testing::internal::CaptureStderr();
  for (const std::string text : {"a", "b", "c", "a", "b", "c"}) {
    EXPECT_TRUE(gives(cache, text));
  }
  return ::testing::internal::GetCapturedStderr();
}

class CacheFault : public ::testing::Test {
 protected:
  void TearDown() override {
    testing::lock_error = 0;
    testing::before_step = nullptr;
  }
};

TEST_F(CacheFault, ADamagedEntryIsLoggedAndBuiltAgain) {
  const ScratchFolder folder;
  ASSERT_EQ(compiles_for(folder.path(), "text"), 1);
  const std::string path = entry_path(folder.path(), "text");
  const std::string whole = read_bytes(path);
  std::string flipped = whole;
  flipped[whole.size() / 2] ^= 4;
  ASSERT_EQ(compiles_for(folder.path(), "other"), 1);
  const std::string foreign = read_bytes(entry_path(folder.path(), "other"));
  for (const std::string& bytes :
       {flipped, whole.substr(0, whole.size() / 2), std::string(), whole + "x", foreign}) {
    write_bytes(path, bytes);
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(compiles_for(folder.path(), "text"), 1);
    const std::string log = ::testing::internal::GetCapturedStderr();
    EXPECT_EQ(count_lines(log), 1U);
    EXPECT_EQ(log.find("warning: " + path + ": "), 0U) << log;
    EXPECT_EQ(read_bytes(path), whole);
  }
  EXPECT_EQ(compiles_for(folder.path(), "text"), 0);
}

TEST_F(CacheFault, AHolderThatDiesWhileCompilingBlocksNobody) {
  const ScratchFolder folder;
  const int status = in_child([&] {
    cache_in(folder.path()).get(example_request("text"), kExampleCompiler, [](const auto&) {
      kill(getpid(), SIGKILL);
      return CompiledKernel();
    });
    return 0;
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(names_in(folder / "locks").size(), 1U);
  EXPECT_EQ(compiles_for(folder.path(), "text"), 1);
  EXPECT_EQ(compiles_for(folder.path(), "text"), 0);
  EXPECT_TRUE(names_in(folder / "locks").empty());
}

TEST_F(CacheFault, KilledAtAnyStepOfPublishingNothingTornIsSeen) {
  for (const std::string& step : kSteps) {
    const ScratchFolder folder;
    const int status = in_child([&] {
      g_step = step;
      testing::before_step = kill_at_step;
      return compiles_for(folder.path(), "text");
    });
    ASSERT_TRUE(WIFSIGNALED(status)) << step;
    KernelCache cache = cache_in(folder.path());
    EXPECT_TRUE(cache.verify().empty()) << step;
    EXPECT_EQ(compiles_for(folder.path(), "text"), step == "published" ? 0 : 1) << step;
    EXPECT_EQ(cache.list().size(), 1U) << step;
  }
}

TEST_F(CacheFault, AnErrorAtAnyStepOfPublishingCostsOneLine) {
  for (const std::string& step : kSteps) {
    const ScratchFolder folder;
    g_step = step;
    testing::before_step = fail_at_step;
    KernelCache cache = cache_in(folder.path());
    EXPECT_EQ(
        log_of_three(cache),
        "warning: kernel cache: tmp: cannot write: Input/output error; kernels compiled from here "
        "on are kept in memory only\n")
        << step;
    EXPECT_EQ(cache.list().size(), step == "published" ? 1U : 0U) << step;
    EXPECT_TRUE(names_in(folder / "tmp").empty()) << step;
    EXPECT_TRUE(names_in(folder / "locks").empty()) << step;
    testing::before_step = nullptr;
    EXPECT_EQ(compiles_for(folder.path(), "b"), 1) << step;
    EXPECT_EQ(compiles_for(folder.path(), "b"), 0) << step;
  }
}

TEST_F(CacheFault, WithoutLocksEachBuildsAsideAndTheFirstWins) {
  for (const int error : {ENOLCK, EOPNOTSUPP, ENOSYS, EINVAL}) {
    testing::lock_error = error;
    const ScratchFolder folder;
    KernelCache cache = cache_in(folder.path());
    const CompileRequest request = example_request("text");
    CompiledKernel late = example_kernel(request);
    late.cubin += "late";
    const auto kernel = cache.get(request, kExampleCompiler, [&](const CompileRequest&) {
      EXPECT_EQ(compiles_for(folder.path(), "text"), 1);
      return late;
    });
    EXPECT_EQ(kernel->cubin, example_kernel(request).cubin);
    EXPECT_EQ(compiles_for(folder.path(), "text"), 0);
    EXPECT_TRUE(cache.verify().empty());
  }
}

// As root no folder is read-only, so a child becomes another user first.
TEST_F(CacheFault, AReadOnlyFolderIsReadAndCostsOneLine) {
  const ScratchFolder folder;
  chmod(folder.path().c_str(), 0755);
  ASSERT_EQ(compiles_for(folder.path(), "a"), 1);
  for (const std::string inner : {"", "sm_90a", "locks", "tmp"}) {
    chmod((folder / inner).c_str(), 0555);
  }
  const int status = in_child([&] {
    if (getuid() == 0 && setresuid(65534, 65534, 65534) != 0) {
      return 10;
    }
    KernelCache cache = cache_in(folder.path());
    g_compiled = 0;
    const std::string log = log_of_three(cache);
    const bool one_line =
        count_lines(log) == 1 && log.find("Permission denied") != std::string::npos;
    return one_line ? g_compiled : 20;
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 2); // b and c, once each
  for (const std::string inner : {"", "sm_90a", "locks", "tmp"}) {
    chmod((folder / inner).c_str(), 0755);
  }
  EXPECT_EQ(names_in(folder / "sm_90a").size(), 1U);
}

TEST_F(CacheFault, AFolderThatCannotBeMadeCostsOneLine) {
  const ScratchFolder folder;
  write_bytes(folder / "file", "x");
  for (const std::string& path : {folder / "file", folder / "file/below"}) {
    KernelCache cache = cache_in(path);
    g_compiled = 0;
    EXPECT_EQ(count_lines(log_of_three(cache)), 1U) << path;
    EXPECT_EQ(g_compiled, 3);
    EXPECT_TRUE(cache.list().empty());
    EXPECT_TRUE(cache.verify().empty());
    EXPECT_EQ(cache.clear(), 0);
  }
}

// A file that cannot grow stands in for a disk that is full: the same place, another errno.
TEST_F(CacheFault, AFullDiskIsNoError) {
  for (const rlim_t limit : {100UL, 10000UL}) {
    const ScratchFolder folder;
    const int status = in_child([&] {
      signal(SIGXFSZ, SIG_IGN);
      KernelCache cache = cache_in(folder.path());
      g_compiled = 0;
      const rlimit small{limit, limit};
      setrlimit(RLIMIT_FSIZE, &small);
      for (const std::string text : {"a", "b", "c", "a", "b", "c"}) {
        if (!gives(cache, text)) {
          return 10;
        }
      }
      return g_compiled;
    });
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 3);
    EXPECT_TRUE(names_in(folder / "sm_90a").empty());
    EXPECT_TRUE(names_in(folder / "tmp").empty());
    EXPECT_TRUE(names_in(folder / "locks").empty());
  }
}

TEST_F(CacheFault, AFolderThatVanishesIsMadeAgain) {
  const ScratchFolder folder;
  KernelCache cache = cache_in(folder / "cache");
  ASSERT_TRUE(gives(cache, "a"));
  std::filesystem::remove_all(folder / "cache");
  ::testing::internal::CaptureStderr();
  EXPECT_TRUE(gives(cache, "a"));
  EXPECT_TRUE(gives(cache, "b"));
  const CompileRequest request = example_request("c");
  cache.get(request, kExampleCompiler, [&](const CompileRequest& asked) {
    std::filesystem::remove_all(folder / "cache");
    return compile(asked);
  });
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(compiles_for(folder / "cache", "c"), 0);
}

} // namespace
} // namespace baton::jit
