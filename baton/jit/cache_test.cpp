// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/cache.h"

#include <atomic>
#include <cstdlib>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "baton/base/error.h"
#include "baton/jit/example_kernels.h"
#include "baton/jit/scratch_folder.h"

namespace baton::jit {
namespace {

using Kernel = std::shared_ptr<const CompiledKernel>;

constexpr std::chrono::hours kTwoHours{2};

// A cache as one process of several would open it, with the example compiler.
class Process {
 public:
  explicit Process(const std::string& folder) : Process(KernelCacheOptions{folder}) {}
  explicit Process(KernelCacheOptions options) : cache_(std::move(options)) {}

  Kernel get(const CompileRequest& request) {
    return cache_.get(request, kExampleCompiler, [this](const CompileRequest& asked) {
      ++compiled_;
      return example_kernel(asked);
    });
  }
  Kernel get(const std::string& text) { return get(example_request(text)); }

  KernelCache& cache() { return cache_; }
  int compiled() const { return compiled_; }

 private:
  KernelCache cache_;
  std::atomic<int> compiled_{0};
};

std::string entry_path(const std::string& folder, const std::string& text) {
  return folder + "/sm_90a/" + example_key(example_request(text)) + ".kernel";
}

std::int64_t entry_bytes(const std::string& folder, const std::string& text) {
  return static_cast<std::int64_t>(std::filesystem::file_size(entry_path(folder, text)));
}

TEST(Cache, CompilesOnceAndReadsBack) {
  const ScratchFolder folder;
  Process first(folder / "deep/cache");
  const CompiledKernel expected = example_kernel(example_request("text"));
  const Kernel built = first.get("text");
  EXPECT_EQ(built->cubin, expected.cubin);
  EXPECT_EQ(built->log, expected.log);
  EXPECT_EQ(first.get("text"), built);
  EXPECT_EQ(first.compiled(), 1);

  Process second(folder / "deep/cache");
  const Kernel read = second.get("text");
  EXPECT_EQ(second.compiled(), 0);
  EXPECT_EQ(read->cubin, expected.cubin);
  EXPECT_EQ(read->entry_symbol, expected.entry_symbol);
  EXPECT_EQ(read->log, "");
  EXPECT_EQ(read->registers, expected.registers);
  EXPECT_EQ(read->microseconds, expected.microseconds);
}

TEST(Cache, LeavesOneFileAnEntryAndNoTrace) {
  const ScratchFolder folder;
  Process(folder.path()).get("text");
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"locks", "sm_90a", "tmp"}));
  EXPECT_EQ(names_in(folder / "sm_90a").size(), 1U);
  EXPECT_TRUE(std::filesystem::exists(entry_path(folder.path(), "text")));
  EXPECT_TRUE(names_in(folder / "locks").empty());
  EXPECT_TRUE(names_in(folder / "tmp").empty());
}

TEST(Cache, TwoSourcesUnderOneNameAreTwoKernels) {
  const ScratchFolder folder;
  Process first(folder.path());
  EXPECT_NE(first.get("one")->cubin, first.get("other")->cubin);
  Process second(folder.path());
  EXPECT_EQ(second.get("one")->cubin, example_kernel(example_request("one")).cubin);
  EXPECT_EQ(second.get("other")->cubin, example_kernel(example_request("other")).cubin);
  EXPECT_EQ(second.compiled(), 0);
}

TEST(Cache, OfTwoCompilersAndArchitecturesNoneSeesTheOther) {
  const ScratchFolder folder;
  Process process(folder.path());
  CompileRequest request = example_request("text");
  process.get(request);
  request.arch = "sm_80";
  process.get(request);
  process.cache().get(request, "example 2.0", example_kernel);
  EXPECT_EQ(names_in(folder / "sm_90a").size(), 1U);
  EXPECT_EQ(names_in(folder / "sm_80").size(), 2U);
}

TEST(Cache, RefusesAnArchitectureThatIsAPath) {
  const ScratchFolder folder;
  Process process(folder.path());
  for (const std::string arch : {"", "../sm_90a", "sm 90", "."}) {
    CompileRequest request = example_request("text");
    request.arch = arch;
    EXPECT_THROW(process.get(request), Error) << arch;
  }
  EXPECT_EQ(process.compiled(), 0);
}

TEST(Cache, WithoutAFolderKernelsStayInMemory) {
  Process process("");
  EXPECT_EQ(process.get("text"), process.get("text"));
  EXPECT_EQ(process.compiled(), 1);
  EXPECT_TRUE(process.cache().list().empty());
  EXPECT_TRUE(process.cache().verify().empty());
  EXPECT_EQ(process.cache().clear(), 0);
}

TEST(Cache, ThreadsOfOneProcessAskOnce) {
  const ScratchFolder folder;
  Process process(folder.path());
  std::vector<Kernel> kernels(16);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    threads.emplace_back([&, i] { kernels[i] = process.get(i % 2 == 0 ? "even" : "odd"); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(process.compiled(), 2);
  for (std::size_t i = 2; i < kernels.size(); ++i) {
    EXPECT_EQ(kernels[i], kernels[i % 2]);
  }
}

TEST(Cache, ThreadsOfSeveralCachesCompileOnce) {
  const ScratchFolder folder;
  std::atomic<int> compiled{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      Process process(folder.path());
      EXPECT_EQ(process.get("text")->cubin, example_kernel(example_request("text")).cubin);
      compiled += process.compiled();
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(compiled, 1);
  EXPECT_TRUE(names_in(folder / "locks").empty());
}

// Sends what is written to stderr through a pipe for as long as it lives.
class StderrPipe {
 public:
  StderrPipe() : saved_(dup(STDERR_FILENO)) {
    EXPECT_EQ(pipe(ends_), 0);
    dup2(ends_[1], STDERR_FILENO);
  }
  ~StderrPipe() {
    dup2(saved_, STDERR_FILENO);
    for (const int end : {ends_[0], ends_[1], saved_}) {
      close(end);
    }
  }
  // Waits for one line.
  std::string line() const {
    std::string text;
    for (char c = 0; read(ends_[0], &c, 1) == 1 && c != '\n';) {
      text += c;
    }
    return text;
  }

 private:
  int ends_[2] = {-1, -1};
  int saved_;
};

TEST(Cache, AWaitingProcessSaysForWhomItWaits) {
  const ScratchFolder folder;
  const StderrPipe log;
  std::promise<void> started;
  std::promise<void> go_on;
  std::thread holder([&] {
    KernelCacheOptions options;
    options.folder = folder.path();
    KernelCache(options).get(
        example_request("text"), kExampleCompiler, [&](const CompileRequest& request) {
          started.set_value();
          go_on.get_future().wait();
          return example_kernel(request);
        });
  });
  started.get_future().wait();
  KernelCacheOptions options;
  options.folder = folder.path();
  options.notice_after = std::chrono::milliseconds(1);
  Process waiting(options);
  std::thread waiter([&] { waiting.get("text"); });
  const std::string line = log.line();
  go_on.set_value();
  holder.join();
  waiter.join();
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  EXPECT_EQ(
      line,
      "kernel scan for sm_90a: waiting for " + std::string(host) + " process " +
          std::to_string(getpid()));
  EXPECT_EQ(waiting.compiled(), 0);
}

TEST(Cache, AFailedCompileIsTheCallersErrorAndFreesTheKey) {
  const ScratchFolder folder;
  KernelCacheOptions options;
  options.folder = folder.path();
  KernelCache cache(options);
  const CompileRequest request = example_request("text");
  const auto fails = [](const CompileRequest&) -> CompiledKernel {
    throw std::runtime_error("syntax");
  };
  EXPECT_THROW(cache.get(request, kExampleCompiler, fails), std::runtime_error);
  EXPECT_TRUE(names_in(folder / "locks").empty());
  EXPECT_TRUE(cache.list().empty());
  EXPECT_EQ(
      cache.get(request, kExampleCompiler, example_kernel)->cubin, example_kernel(request).cubin);
}

TEST(Cache, OldestEntriesGoWhenTheLimitIsReached) {
  const ScratchFolder folder;
  Process large(folder.path());
  for (const std::string text : {"a", "b", "c"}) {
    large.get(text);
  }
  make_older(entry_path(folder.path(), "a"), std::chrono::hours(3));
  make_older(entry_path(folder.path(), "b"), std::chrono::hours(5));
  make_older(entry_path(folder.path(), "c"), std::chrono::hours(4));
  Process(folder.path()).get("b"); // b is the one used last now
  KernelCacheOptions options;
  options.folder = folder.path();
  options.bytes = entry_bytes(folder.path(), "a") + entry_bytes(folder.path(), "b");
  const ScratchFolder measured;
  Process(measured.path()).get("new");
  options.bytes += entry_bytes(measured.path(), "new");
  Process(options).get("new");
  EXPECT_FALSE(std::filesystem::exists(entry_path(folder.path(), "c")));
  for (const std::string text : {"a", "b", "new"}) {
    EXPECT_TRUE(std::filesystem::exists(entry_path(folder.path(), text))) << text;
  }
}

TEST(Cache, WhatWasJustPublishedStaysWhateverTheLimit) {
  const ScratchFolder folder;
  KernelCacheOptions options;
  options.folder = folder.path();
  options.bytes = 0;
  Process process(options);
  for (const std::string text : {"a", "b", "c"}) {
    process.get(text);
    EXPECT_EQ(names_in(folder / "sm_90a").size(), 1U);
    EXPECT_TRUE(std::filesystem::exists(entry_path(folder.path(), text)));
  }
}

TEST(Cache, ReadingMarksAnEntryAtMostOnceAnHour) {
  const ScratchFolder folder;
  Process(folder.path()).get("text");
  const std::string path = entry_path(folder.path(), "text");
  make_older(path, kTwoHours);
  const auto before = std::filesystem::last_write_time(path);
  Process(folder.path()).cache().list();
  Process(folder.path()).cache().verify();
  EXPECT_EQ(std::filesystem::last_write_time(path), before);
  Process(folder.path()).get("text");
  EXPECT_GT(std::filesystem::last_write_time(path), before);
  make_older(path, std::chrono::minutes(50));
  const auto recent = std::filesystem::last_write_time(path);
  Process(folder.path()).get("text");
  EXPECT_EQ(std::filesystem::last_write_time(path), recent);
}

TEST(Cache, PublishingRemovesWhatDeadProcessesLeft) {
  const ScratchFolder folder;
  for (const std::string name : {"tmp/old", "tmp/new", "locks/old", "locks/new", "locks/held"}) {
    write_bytes(folder / name, "x");
  }
  for (const std::string name : {"tmp/old", "locks/old", "locks/held"}) {
    make_older(folder / name, kTwoHours);
  }
  const int held = open((folder / "locks/held").c_str(), O_RDWR);
  ASSERT_EQ(flock(held, LOCK_EX), 0);
  Process(folder.path()).get("text");
  EXPECT_EQ(names_in(folder / "tmp"), std::set<std::string>{"new"});
  EXPECT_EQ(names_in(folder / "locks"), (std::set<std::string>{"held", "new"}));
  close(held);
}

TEST(Cache, ListsWhatItHolds) {
  const ScratchFolder folder;
  Process process(folder.path());
  process.get("text");
  CompileRequest request = example_request("text");
  request.arch = "sm_80";
  request.name = "conv";
  process.get(request);
  write_bytes(folder / "sm_80/damaged.kernel", "x");
  write_bytes(folder / "sm_80/foreign", "x");
  const std::vector<CacheListing> list = process.cache().list();
  ASSERT_EQ(list.size(), 2U);
  EXPECT_EQ(list[0].name, "conv");
  EXPECT_EQ(list[0].arch, "sm_80");
  EXPECT_EQ(list[1].name, "scan");
  EXPECT_EQ(list[1].arch, "sm_90a");
  EXPECT_EQ(list[1].key, example_key(example_request("text")));
  EXPECT_EQ(list[1].bytes, entry_bytes(folder.path(), "text"));
  EXPECT_EQ(list[1].registers, 40);
  EXPECT_EQ(list[1].spill_bytes, 8);
  EXPECT_EQ(list[1].shared_bytes, 1024);
  EXPECT_EQ(list[1].microseconds, 1500);
  struct stat status {};
  ASSERT_EQ(stat(entry_path(folder.path(), "text").c_str(), &status), 0);
  EXPECT_EQ(std::chrono::system_clock::to_time_t(list[1].last_use), status.st_mtime);
}

TEST(Cache, VerifyRemovesDamagedEntriesAndNothingElse) {
  const ScratchFolder folder;
  Process process(folder.path());
  process.get("good");
  process.get("bad");
  const std::string good = entry_path(folder.path(), "good");
  const std::string bad = entry_path(folder.path(), "bad");
  std::string bytes = read_bytes(bad);
  bytes.back() ^= 1;
  write_bytes(bad, bytes);
  write_bytes(folder / "sm_90a/0000.kernel", read_bytes(good));
  const std::vector<DamagedEntry> damaged = process.cache().verify();
  ASSERT_EQ(damaged.size(), 2U);
  EXPECT_EQ(damaged[0].path, folder / "sm_90a/0000.kernel");
  EXPECT_EQ(damaged[0].damage, "holds sm_90a/" + example_key(example_request("good")));
  EXPECT_EQ(damaged[1].path, bad);
  EXPECT_EQ(damaged[1].damage, "checksum does not match");
  EXPECT_EQ(names_in(folder / "sm_90a").size(), 1U);
  EXPECT_TRUE(names_in(folder / "locks").empty());
  EXPECT_TRUE(process.cache().verify().empty());
}

TEST(Cache, ClearRemovesAllEntries) {
  const ScratchFolder folder;
  Process process(folder.path());
  process.get("one");
  process.get("other");
  write_bytes(folder / "locks/idle", "x");
  EXPECT_EQ(process.cache().clear(), 2);
  EXPECT_TRUE(process.cache().list().empty());
  EXPECT_TRUE(names_in(folder / "locks").empty());
  process.get("one");
  EXPECT_EQ(process.compiled(), 2); // out of memory still
  Process(folder.path()).get("one");
  EXPECT_EQ(process.cache().list().size(), 1U);
}

TEST(Cache, TheEnvironmentNamesFolderAndLimit) {
  setenv("BATON_KERNEL_CACHE", "/shared/kernels", 1);
  setenv("XDG_CACHE_HOME", "/xdg", 1);
  setenv("HOME", "/home/someone", 1);
  setenv("BATON_KERNEL_CACHE_BYTES", "1000", 1);
  EXPECT_EQ(kernel_cache_options().folder, "/shared/kernels");
  EXPECT_EQ(kernel_cache_options().bytes, 1000);
  unsetenv("BATON_KERNEL_CACHE");
  EXPECT_EQ(kernel_cache_options().folder, "/xdg/baton/kernels");
  unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(kernel_cache_options().folder, "/home/someone/.cache/baton/kernels");
  unsetenv("HOME");
  EXPECT_EQ(kernel_cache_options().folder, "");
  for (const std::string wrong : {"4GB", "-1", "1e9", " "}) {
    setenv("BATON_KERNEL_CACHE_BYTES", wrong.c_str(), 1);
    EXPECT_THROW(kernel_cache_options(), Error) << wrong;
  }
  unsetenv("BATON_KERNEL_CACHE_BYTES");
  EXPECT_EQ(kernel_cache_options().bytes, std::int64_t{1} << 31);
}

} // namespace
} // namespace baton::jit
