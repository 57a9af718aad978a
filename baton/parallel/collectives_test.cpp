// SPDX-License-Identifier: Apache-2.0
// One rank of several that a launcher starts: every collective of a group against what Gloo gives,
// then how quick they are. Alone it is a run of one rank.
//   --device=cpu|cuda        Gloo, or NCCL on the GPU of this rank's number on its host
//   --table=MIB              largest size in the table of bandwidths; 0 (default) prints none
//   --timeout=SECONDS        of the mesh, 60
//   --lose=exit|stall|throw  instead of all that: the last rank is lost, and how the others end
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <unistd.h>

#include "baton/base/error.h"
#include "baton/parallel/mesh.h"

namespace baton::parallel {
namespace {

using std::chrono::seconds;

struct Settings {
  std::string device = "cpu";
  std::string lose;
  std::int64_t table_mib = 0;
  seconds timeout{60};
};

/// What the tests share: the ranks as they are, and the same ranks by Gloo as a judge.
struct Ranks {
  const Mesh& mesh;
  const Mesh& judge;
  c10::Device device;

  const Group& group() const { return mesh.all(); }
  int size() const { return mesh.size(); }
};

const Ranks* ranks = nullptr;

// Different on every rank, and exact in bf16.
at::Tensor values_of(int rank, std::int64_t count, at::ScalarType dtype) {
  return ((at::arange(count, at::kLong) * 37 + rank * 101) % 251 - 125).to(dtype);
}

// Different on every rank, and rounded by every addition.
at::Tensor waves_of(int rank, std::int64_t count, at::ScalarType dtype) {
  return at::sin(at::arange(count, at::kDouble) * 0.37 + rank).to(dtype);
}

void expect_same(const at::Tensor& found, const at::Tensor& expected) {
  EXPECT_TRUE(at::equal(found.cpu(), expected)) << expected.scalar_type() << expected.sizes();
}

// A sum of two is the same in either order; of more, the libraries may differ in theirs.
void expect_same_sum(const at::Tensor& found, const at::Tensor& expected) {
  if (ranks->size() <= 2) {
    expect_same(found, expected);
    return;
  }
  const double rounding = expected.scalar_type() == at::kFloat ? 1.2e-7 : 2.3e-16;
  const double limit = rounding * ranks->size() * ranks->size();
  EXPECT_LE((found.cpu() - expected).abs().max().item<double>(), limit);
}

constexpr std::array<std::int64_t, 4> kCounts{1, 3, 1000, 1 << 20};

TEST(Collectives, AllGather) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat, at::kDouble, at::kLong}) {
    for (const std::int64_t count : kCounts) {
      const at::Tensor own = values_of(ranks->mesh.rank(), count, dtype);
      const at::Tensor expected = ranks->judge.all().all_gather(own);
      expect_same(ranks->group().all_gather(own.to(ranks->device)), expected);
      for (int rank = 0; rank < ranks->size(); ++rank) {
        expect_same(expected[rank], values_of(rank, count, dtype));
      }
    }
  }
}

// Moves rows between all ranks, `count(from, to)` of them.
void check_all_to_all(at::ScalarType dtype, const std::function<std::int64_t(int, int)>& count) {
  const int rank = ranks->mesh.rank();
  std::vector<std::int64_t> out;
  std::vector<std::int64_t> in;
  std::vector<at::Tensor> sent{at::empty({0, 5}, dtype)};
  std::vector<at::Tensor> expected{at::empty({0, 5}, dtype)};
  for (int other = 0; other < ranks->size(); ++other) {
    out.push_back(count(rank, other));
    in.push_back(count(other, rank));
    sent.push_back(values_of(7 * rank + other, 5 * out.back(), dtype).view({-1, 5}));
    expected.push_back(values_of(7 * other + rank, 5 * in.back(), dtype).view({-1, 5}));
  }
  const at::Tensor rows = at::cat(sent);
  expect_same(ranks->judge.all().all_to_all(rows, out, in), at::cat(expected));
  expect_same(ranks->group().all_to_all(rows.to(ranks->device), out, in), at::cat(expected));
}

TEST(Collectives, AllToAll) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    check_all_to_all(dtype, [](int, int) { return 1 << 16; });
    check_all_to_all(dtype, [](int from, int to) { return (3 * from + 5 * to) % 4; });
    check_all_to_all(dtype, [](int from, int to) { return from == 0 ? 0 : 100 * to + 1; });
    check_all_to_all(dtype, [](int from, int to) { return from == to ? 3 : 0; });
  }
}

TEST(Collectives, Broadcast) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat, at::kLong}) {
    for (int root = 0; root < ranks->size(); ++root) {
      const at::Tensor told = values_of(ranks->mesh.rank(), 1000, dtype).to(ranks->device);
      ranks->group().broadcast_(told, root);
      expect_same(told, values_of(root, 1000, dtype));
    }
  }
}

TEST(Collectives, AllReduce) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    for (const std::int64_t count : kCounts) {
      const at::Tensor own = waves_of(ranks->mesh.rank(), count, dtype);
      const at::Tensor expected = own.clone();
      ranks->judge.all().all_reduce_(expected);
      const at::Tensor sum = own.to(ranks->device, dtype, /*non_blocking=*/false, /*copy=*/true);
      ranks->group().all_reduce_(sum);
      expect_same_sum(sum, expected);
      const at::Tensor again = own.to(ranks->device, dtype, /*non_blocking=*/false, /*copy=*/true);
      ranks->group().all_reduce_(again);
      EXPECT_TRUE(at::equal(sum, again)) << "other bits the second time";
    }
  }
}

TEST(Collectives, ReduceScatter) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    for (const std::int64_t count : kCounts) {
      const at::Tensor all = waves_of(ranks->mesh.rank(), count * ranks->size(), dtype);
      const at::Tensor expected = at::empty({count}, dtype);
      ranks->judge.all().start_reduce_scatter(all, expected).wait();
      const at::Tensor own = at::empty({count}, expected.options().device(ranks->device));
      ranks->group().start_reduce_scatter(all.to(ranks->device), own).wait();
      expect_same_sum(own, expected);
    }
  }
}

TEST(Collectives, SeveralAtOnceInAnyOrderOfWaiting) {
  std::vector<at::Tensor> sums;
  std::vector<Pending> pending;
  for (int i = 0; i < 8; ++i) {
    sums.push_back(at::full({1 << 18}, i + ranks->mesh.rank(), at::kFloat).to(ranks->device));
    pending.push_back(ranks->group().start_all_reduce_(sums.back()));
  }
  for (int i = 7; i >= 0; --i) {
    pending[static_cast<std::size_t>(i)].wait();
    const int sum = i * ranks->size() + ranks->size() * (ranks->size() - 1) / 2;
    expect_same(sums[static_cast<std::size_t>(i)], at::full({1 << 18}, sum, at::kFloat));
  }
}

TEST(Collectives, BarrierWaitsForTheLast) {
  constexpr std::chrono::milliseconds kLate{100};
  ranks->judge.all().barrier();
  const auto began = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(kLate * ranks->mesh.rank());
  ranks->group().barrier();
  // Ranks leave the judge's barrier within half of that of each other.
  EXPECT_GE(std::chrono::steady_clock::now() - began, kLate * (ranks->size() - 1) - kLate / 2);
}

void synchronize(c10::Device device) {
  if (!device.is_cpu()) {
    c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
  }
}

/// Seconds of one call when several follow each other: the median of some rounds.
double time_of(const std::function<void()>& call, std::int64_t bytes) {
  const bool gpu = !ranks->device.is_cpu();
  const int calls = !gpu ? 1 : bytes >= (std::int64_t{1} << 28) ? 4 : 20;
  std::vector<double> rounds;
  for (int round = -1; round < 7; ++round) { // the first is to warm up
    ranks->group().barrier();
    synchronize(ranks->device);
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) {
      call();
    }
    synchronize(ranks->device);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    if (round >= 0) {
      rounds.push_back(took.count() / calls);
    }
  }
  std::sort(rounds.begin(), rounds.end());
  return rounds[rounds.size() / 2];
}

/// Bytes per second that each link must have carried, by the usual convention: what a ring sends.
void print_bandwidths(std::int64_t most_mib) {
  const Group& group = ranks->group();
  const double others = static_cast<double>(group.size() - 1) / group.size();
  if (ranks->mesh.rank() == 0) {
    std::printf(
        "bus bandwidth in GB/s, %d ranks, %s\n"
        "| MiB | all-reduce | all-gather | reduce-scatter | all-to-all |\n|---|---|---|---|---|\n",
        group.size(),
        ranks->device.str().c_str());
  }
  for (std::int64_t mib = 1; mib <= most_mib; mib *= 4) {
    const std::int64_t bytes = mib << 20;
    const std::int64_t own_count = bytes / 4 / group.size();
    const auto options = at::TensorOptions(at::kFloat).device(ranks->device);
    const at::Tensor all = at::zeros({own_count * group.size()}, options);
    const at::Tensor other = at::zeros_like(all);
    const at::Tensor own = at::zeros({own_count}, options);
    const std::vector<std::int64_t> counts(static_cast<std::size_t>(group.size()), own_count);
    const double gb = static_cast<double>(bytes) * others / 1e9;
    const double reduce = 2 * gb / time_of([&] { group.all_reduce_(all); }, bytes);
    const double gather = gb / time_of([&] { group.start_all_gather(own, all).wait(); }, bytes);
    const double scatter =
        gb / time_of([&] { group.start_reduce_scatter(all, own).wait(); }, bytes);
    const double exchange =
        gb / time_of([&] { group.start_all_to_all(all, other, counts, counts).wait(); }, bytes);
    if (ranks->mesh.rank() == 0) {
      std::printf(
          "| %ld | %.1f | %.1f | %.1f | %.1f |\n",
          static_cast<long>(mib),
          reduce,
          gather,
          scatter,
          exchange);
      std::fflush(stdout);
    }
  }
}

/// The last rank goes in the way that `how` says, while the others wait for it.
void lose_a_rank(const std::string& how, seconds timeout) {
  const at::Tensor values = at::ones({1000}, at::TensorOptions(ranks->device));
  ranks->group().all_reduce_(values);
  synchronize(ranks->device);
  if (ranks->mesh.rank() == ranks->size() - 1) {
    if (how == "throw") {
      ranks->mesh.say_why_stopping("its disk is full");
      throw RunError("its disk is full");
    }
    if (how == "stall") {
      std::this_thread::sleep_for(timeout + seconds(30));
    }
    _exit(3);
  }
  ranks->group().all_reduce_(values);
  synchronize(ranks->device);
  throw RunError("a rank was lost and nobody saw it");
}

c10::Device open_device(const std::string& name, int local_rank) {
  if (name == "cpu") {
    return at::kCPU;
  }
  const int count = at::detail::getCUDAHooks().deviceCount();
  if (local_rank >= count) {
    throw Error(
        "rank " + std::to_string(local_rank) + " of this host has no GPU: there are " +
        std::to_string(count));
  }
  // As a run does: memory of this kind is shared between processes in another way.
  c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
  return {at::kCUDA, static_cast<c10::DeviceIndex>(local_rank)};
}

int run(const Settings& settings) {
  const Launch launch = read_launch();
  const c10::Device device = open_device(settings.device, launch.local_rank);
  const c10::DeviceGuard current(device);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  const MeshShape shape = make_mesh_shape({}, launch.world_size);
  c10::intrusive_ptr<c10d::Store> store;
  if (launch.world_size > 1) {
    store = open_store(launch, settings.timeout);
  }
  const auto below = [&](const char* name) {
    return c10::make_intrusive<c10d::PrefixStore>(name, store);
  };
  const Mesh judge(shape, launch.rank, below("judge"), at::kCPU, settings.timeout);
  const Mesh mesh(shape, launch.rank, below("mesh"), device, settings.timeout);
  const Ranks shared{mesh, judge, device};
  ranks = &shared;
  if (!settings.lose.empty()) {
    lose_a_rank(settings.lose, settings.timeout);
  }
  const int failed = RUN_ALL_TESTS();
  if (failed == 0 && settings.table_mib > 0) {
    print_bandwidths(settings.table_mib);
  }
  return failed;
}

Settings read_settings(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const std::size_t equals = word.find('=');
    const std::string key = word.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
    if (key == "--device" && (value == "cpu" || value == "cuda")) {
      settings.device = value;
    } else if (key == "--lose" && (value == "exit" || value == "stall" || value == "throw")) {
      settings.lose = value;
    } else if (key == "--table") {
      settings.table_mib = std::stoll(value);
    } else if (key == "--timeout") {
      settings.timeout = seconds(std::stoll(value));
    } else {
      throw Error("unknown option " + word);
    }
  }
  return settings;
}

} // namespace
} // namespace baton::parallel

int main(int argc, char** argv) {
  try {
    // The other ranks say only what has failed.
    ::testing::GTEST_FLAG(brief) = baton::parallel::read_launch().rank != 0;
    ::testing::InitGoogleTest(&argc, argv);
    return baton::parallel::run(baton::parallel::read_settings(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return dynamic_cast<const baton::RunError*>(&error) == nullptr ? 2 : 1;
  }
}
