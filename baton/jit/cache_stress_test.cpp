// SPDX-License-Identifier: Apache-2.0
// Many processes ask for many kernels at once while a third of them is killed.
#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "baton/jit/cache.h"
#include "baton/jit/example_kernels.h"
#include "baton/jit/scratch_folder.h"

namespace baton::jit {

namespace testing {
extern int lock_error;
} // namespace testing

namespace {

constexpr int kProcesses = 64;
constexpr int kVictims = kProcesses / 3;
// The log of a crowd stays below, and half of the entries does not.
constexpr rlim_t kFileLimit = 40000;

enum class Event : std::uint16_t { kStart, kFinish, kGot };

// One append to the log of a crowd, whole even when its writer is killed.
struct Record {
  std::int32_t process;
  std::uint16_t key;
  Event event;
};

struct Crowd {
  unsigned seed = 1;
  int keys = 20;
  bool small_files = false;   // files cannot grow beyond kFileLimit
  bool removes_cache = false; // half-way
};

class Log {
 public:
  explicit Log(std::string path)
      : path_(std::move(path)),
        descriptor_(open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {}
  ~Log() { close(descriptor_); }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  void append(int key, Event event) const {
    const Record record{getpid(), static_cast<std::uint16_t>(key), event};
    if (write(descriptor_, &record, sizeof(record)) != sizeof(record)) {
      _exit(20);
    }
  }
  std::size_t size() const { return std::filesystem::file_size(path_) / sizeof(Record); }
  std::vector<Record> records() const {
    const std::string bytes = read_bytes(path_);
    std::vector<Record> records(bytes.size() / sizeof(Record));
    std::copy_n(
        bytes.data(), records.size() * sizeof(Record), reinterpret_cast<char*>(records.data()));
    return records;
  }

 private:
  std::string path_;
  int descriptor_;
};

CompileRequest request_of(int key) {
  return example_request("kernel " + std::to_string(key));
}

// What a process of the crowd does; returns its exit code.
int ask_for_all(const std::string& folder, const Log& log, const Crowd& crowd, unsigned seed) {
  if (crowd.small_files) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{kFileLimit, kFileLimit};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  std::mt19937 random(seed);
  std::vector<int> order(static_cast<std::size_t>(crowd.keys));
  for (std::size_t i = 0; i < order.size(); ++i) {
    order[i] = static_cast<int>(i);
  }
  std::shuffle(order.begin(), order.end(), random);
  KernelCache cache(KernelCacheOptions{folder});
  for (const int key : order) {
    const auto kernel = cache.get(request_of(key), kExampleCompiler, [&](const auto& request) {
      log.append(key, Event::kStart);
      usleep(10000 + random() % 30000);
      log.append(key, Event::kFinish);
      return example_kernel(request);
    });
    log.append(key, Event::kGot);
    if (kernel->cubin != example_kernel(request_of(key)).cubin) {
      return 10;
    }
  }
  return 0;
}

// Children that wait until all are there.
std::vector<pid_t> start(const std::string& folder, const Log& log, const Crowd& crowd) {
  std::array<int, 2> gate{};
  EXPECT_EQ(pipe2(gate.data(), O_CLOEXEC), 0);
  std::vector<pid_t> children;
  for (unsigned i = 0; i < kProcesses; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      // Trouble is expected here, and told by the exit code.
      const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
      dup2(nowhere, STDERR_FILENO);
      close(gate[1]);
      char byte = 0;
      while (read(gate[0], &byte, 1) < 0 && errno == EINTR) {
      }
      _exit(ask_for_all(folder, log, crowd, crowd.seed * 1000 + i));
    }
    children.push_back(child);
  }
  close(gate[0]);
  close(gate[1]);
  return children;
}

// Half of the victims are those that began to compile last, the others are any.
pid_t choose_victim(const std::vector<pid_t>& alive, const Log& log, std::mt19937& random) {
  if (random() % 2 == 0) {
    const std::vector<Record> records = log.records();
    for (auto record = records.rbegin(); record != records.rend(); ++record) {
      if (record->event == Event::kStart &&
          std::find(alive.begin(), alive.end(), record->process) != alive.end()) {
        return record->process;
      }
    }
  }
  return alive[random() % alive.size()];
}

// Kills at moments of the crowd's own progress, so that the machine's load does not matter.
void kill_some(std::vector<pid_t> alive, const std::string& folder, const Log& log, Crowd crowd) {
  std::mt19937 random(crowd.seed);
  const auto records = static_cast<unsigned>((kProcesses - kVictims) * crowd.keys);
  std::vector<std::size_t> moments; // in records that the others write in any case
  for (int i = 0; i < kVictims; ++i) {
    moments.push_back(random() % (i % 2 == 0 ? records : records / 8));
  }
  std::sort(moments.begin(), moments.end());
  for (const std::size_t moment : moments) {
    while (log.size() < moment) {
      usleep(500);
    }
    usleep(random() % 5000);
    const pid_t victim = choose_victim(alive, log, random);
    kill(victim, SIGKILL);
    alive.erase(std::find(alive.begin(), alive.end(), victim));
    if (crowd.removes_cache && moment > records / 8) {
      std::error_code busy; // Others put files into what is being removed.
      std::filesystem::remove_all(folder, busy);
      crowd.removes_cache = false;
    }
  }
}

struct Outcome {
  std::set<std::int32_t> killed;
  std::vector<Record> records;
};

Outcome run(const std::string& folder, const std::string& log_path, const Crowd& crowd) {
  const Log log(log_path);
  const std::vector<pid_t> children = start(folder, log, crowd);
  kill_some(children, folder, log, crowd);
  Outcome outcome;
  for (const pid_t child : children) {
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
      outcome.killed.insert(child);
    } else {
      EXPECT_TRUE(WIFEXITED(status));
      EXPECT_EQ(WEXITSTATUS(status), 0);
    }
  }
  EXPECT_GE(outcome.killed.size(), 1U);
  outcome.records = log.records();
  return outcome;
}

// Every process that got a key while others were killed shows that none blocked it; here it is
// what the survivors left.
void expect_whole(const std::string& folder, int keys) {
  KernelCache cache(KernelCacheOptions{folder});
  EXPECT_TRUE(cache.verify().empty());
  EXPECT_EQ(cache.list().size(), static_cast<std::size_t>(keys));
  for (int key = 0; key < keys; ++key) {
    const auto kernel = cache.get(request_of(key), kExampleCompiler, [&](const auto& request) {
      ADD_FAILURE() << "key " << key << " is not published";
      return example_kernel(request);
    });
    EXPECT_EQ(kernel->cubin, example_kernel(request_of(key)).cubin);
  }
}

// A key is compiled once, and once more for each process that was killed between its start and the
// moment when it had the kernel.
void expect_few_compiles(const Outcome& outcome, int keys) {
  std::map<int, int> started;
  std::map<int, std::set<std::int32_t>> holders;
  for (const Record& record : outcome.records) {
    if (record.event == Event::kStart) {
      ++started[record.key];
      holders[record.key].insert(record.process);
    } else if (record.event == Event::kGot) {
      holders[record.key].erase(record.process);
    }
  }
  for (int key = 0; key < keys; ++key) {
    int died = 0;
    for (const std::int32_t holder : holders[key]) {
      EXPECT_EQ(outcome.killed.count(holder), 1U);
      ++died;
    }
    EXPECT_GE(started[key], 1);
    EXPECT_LE(started[key], 1 + died) << "key " << key;
  }
}

// Memory where there is some: hundreds of syncs take minutes on a disk that others keep busy.
std::filesystem::path quick_folder() {
  const std::filesystem::path memory = "/dev/shm";
  return access(memory.c_str(), W_OK) == 0 ? memory : std::filesystem::temp_directory_path();
}

class CacheStress : public ::testing::TestWithParam<unsigned> {
 protected:
  void TearDown() override { testing::lock_error = 0; }

  std::string folder() const { return scratch_ / "cache"; }
  Outcome run(Crowd crowd) const {
    crowd.seed = GetParam();
    return jit::run(folder(), scratch_ / "log", crowd);
  }

 private:
  ScratchFolder scratch_{quick_folder()};
};

TEST_P(CacheStress, EachKernelIsCompiledOnceUnlessItsHolderDies) {
  const Outcome outcome = run({});
  expect_whole(folder(), Crowd().keys);
  expect_few_compiles(outcome, Crowd().keys);
}

TEST_P(CacheStress, TwoSourcesUnderOneName) {
  Crowd crowd;
  crowd.keys = 2;
  const Outcome outcome = run(crowd);
  expect_whole(folder(), crowd.keys);
  expect_few_compiles(outcome, crowd.keys);
  const std::vector<CacheListing> list = KernelCache(KernelCacheOptions{folder()}).list();
  ASSERT_EQ(list.size(), 2U);
  EXPECT_EQ(list[0].name, list[1].name);
  EXPECT_NE(list[0].key, list[1].key);
}

TEST_P(CacheStress, WithoutLocks) {
  testing::lock_error = ENOLCK;
  run({});
  expect_whole(folder(), Crowd().keys);
}

TEST_P(CacheStress, AFullDisk) {
  Crowd crowd;
  crowd.small_files = true;
  run(crowd);
  KernelCache cache(KernelCacheOptions{folder()});
  EXPECT_TRUE(cache.verify().empty());
  for (const CacheListing& entry : cache.list()) {
    EXPECT_LE(entry.bytes, static_cast<std::int64_t>(kFileLimit));
  }
}

TEST_P(CacheStress, TheCacheVanishesHalfWay) {
  Crowd crowd;
  crowd.removes_cache = true;
  run(crowd);
  EXPECT_TRUE(KernelCache(KernelCacheOptions{folder()}).verify().empty());
}

INSTANTIATE_TEST_SUITE_P(Seeds, CacheStress, ::testing::Values(1U, 2U, 3U));

} // namespace
} // namespace baton::jit
