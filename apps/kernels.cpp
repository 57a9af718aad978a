// SPDX-License-Identifier: Apache-2.0
// `baton kernels`: fills the cache of compiled CUDA kernels with no GPU present, shows, checks and
// empties it; measures the table of how launches share work.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/table.h"
#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/jit/cache.h"
#include "baton/jit/compiler.h"
#include "baton/jit/kernel_store.h"
#include "baton/ops/cuda_kernels.h"
#include "baton/ops/device.h"
#include "baton/ops/kernel_tuner.h"
#include "baton/ops/tuning.h"
#include "baton/train/model_source.h"
#include "baton/train/read_recipe.h"

namespace baton {
namespace {

constexpr double kMicrosecondsPerMillisecond = 1e3;

struct KernelsArguments {
  std::string model; ///< recipe or folder; empty: every model
  std::vector<std::string> assignments;
  std::vector<std::string> archs;
  std::string device = "cuda";
  std::string out; ///< file of the table; empty: standard output
  bool json = false;
};

jit::KernelCache open_cache() {
  jit::KernelCacheOptions options = jit::kernel_cache_options();
  if (options.folder.empty()) {
    throw Error("no folder for compiled kernels: set BATON_KERNEL_CACHE, XDG_CACHE_HOME or HOME");
  }
  return jit::KernelCache(std::move(options));
}

std::string milliseconds(std::int64_t microseconds) {
  char text[32];
  std::snprintf(
      text, sizeof(text), "%.1f", static_cast<double>(microseconds) / kMicrosecondsPerMillisecond);
  return text;
}

/// ISO 8601, UTC, to the hour: uses are not known more exactly.
std::string hour_of(std::chrono::system_clock::time_point time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:00Z", &parts);
  return text;
}

void list_kernels(bool json) {
  const jit::KernelCache cache = open_cache();
  const std::vector<jit::CacheListing> listings = cache.list();
  std::int64_t bytes = 0;
  std::int64_t microseconds = 0;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::vector<std::vector<std::string>> table = {
      {"arch", "registers", "spills", "shared", "ms", "bytes", "last use", "kernel"}};
  for (const jit::CacheListing& kernel : listings) {
    bytes += kernel.bytes;
    microseconds += kernel.microseconds;
    rows.push_back(
        {{"name", kernel.name},
         {"arch", kernel.arch},
         {"key", kernel.key},
         {"registers", kernel.registers},
         {"spill_bytes", kernel.spill_bytes},
         {"shared_bytes", kernel.shared_bytes},
         {"microseconds", kernel.microseconds},
         {"bytes", kernel.bytes},
         {"last_use", hour_of(kernel.last_use)}});
    table.push_back(
        {kernel.arch,
         std::to_string(kernel.registers),
         std::to_string(kernel.spill_bytes),
         std::to_string(kernel.shared_bytes),
         milliseconds(kernel.microseconds),
         std::to_string(kernel.bytes),
         hour_of(kernel.last_use),
         kernel.name});
  }
  if (json) {
    const nlohmann::ordered_json all{
        {"folder", cache.folder()}, {"bytes", bytes}, {"kernels", rows}};
    std::printf("%s\n", all.dump(2).c_str());
    return;
  }
  if (!listings.empty()) {
    print_table(table);
  }
  std::printf(
      "%zu kernels, %lld bytes, %s ms of compiling in %s\n",
      listings.size(),
      static_cast<long long>(bytes),
      milliseconds(microseconds).c_str(),
      cache.folder().c_str());
}

void verify_kernels() {
  jit::KernelCache cache = open_cache();
  const std::vector<jit::DamagedEntry> damaged = cache.verify();
  for (const jit::DamagedEntry& entry : damaged) {
    std::printf("removed %s: %s\n", entry.path.c_str(), entry.damage.c_str());
  }
  if (!damaged.empty()) {
    throw RunError(
        cache.folder() + ": " + std::to_string(damaged.size()) +
        " damaged kernels were removed; they are compiled again when they are needed");
  }
  std::printf("%zu kernels, all whole, in %s\n", cache.list().size(), cache.folder().c_str());
}

void clear_kernels() {
  jit::KernelCache cache = open_cache();
  const std::int64_t removed = cache.clear();
  std::printf(
      "removed %lld kernels from %s\n", static_cast<long long>(removed), cache.folder().c_str());
}

ops::KernelModel kernel_model(const KernelsArguments& arguments) {
  const std::string& path = arguments.model;
  const bool folder = std::filesystem::is_directory(path);
  if (folder && !arguments.assignments.empty()) {
    throw Error("--set overrides keys of a recipe, and " + path + " is a folder");
  }
  const model::ModelConfig config = folder ? train::open_model(path).recipe.model
                                           : train::read_recipe(path, arguments.assignments).model;
  return {
      config.scalar_type(),
      config.mamba.head_dim,
      config.mamba.state_size,
      config.mamba.conv_width};
}

/// The kernels that a model may launch on CUDA, in training and inference; without one every
/// kernel, for an image or a machine that is to serve any model.
std::vector<ops::KernelBudget> wanted_kernels(const KernelsArguments& arguments) {
  std::vector<ops::KernelBudget> kernels = ops::all_kernels();
  if (!arguments.model.empty()) {
    const ops::KernelModel model = kernel_model(arguments);
    std::erase_if(kernels, [&](const auto& kernel) { return !kernel.serves(model); });
  }
  return kernels;
}

struct BuiltKernel {
  jit::CompileRequest request;
  std::shared_ptr<const jit::CompiledKernel> kernel;
};

/// Compiles on all processors, or takes out of the cache. Throws what the first failure threw.
void build_all(
    const jit::Compiler& compiler,
    jit::KernelCache& cache,
    std::vector<BuiltKernel>& kernels) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&] {
    for (std::size_t i = next.fetch_add(1); i < kernels.size(); i = next.fetch_add(1)) {
      try {
        kernels[i].kernel = cache.get(
            kernels[i].request,
            compiler.compiler_version(),
            [&](const jit::CompileRequest& request) { return compiler.compile(request); });
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        failure = failure ? failure : std::current_exception();
        next = kernels.size();
      }
    }
  };
  std::vector<std::thread> threads;
  const std::size_t processors = std::max(1U, std::thread::hardware_concurrency());
  for (std::size_t i = 1; i < std::min(processors, kernels.size()); ++i) {
    threads.emplace_back(work);
  }
  work();
  for (std::thread& thread : threads) {
    thread.join();
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

void print_built(const std::vector<BuiltKernel>& kernels, const std::string& folder, bool json) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::vector<std::vector<std::string>> table = {
      {"arch", "registers", "spills", "shared", "ms", "kernel"}};
  for (const auto& [request, kernel] : kernels) {
    rows.push_back(
        {{"name", request.name},
         {"arch", request.arch},
         {"registers", kernel->registers},
         {"spill_bytes", kernel->spill_bytes},
         {"shared_bytes", kernel->shared_bytes},
         {"microseconds", kernel->microseconds}});
    table.push_back(
        {request.arch,
         std::to_string(kernel->registers),
         std::to_string(kernel->spill_bytes),
         std::to_string(kernel->shared_bytes),
         milliseconds(kernel->microseconds),
         request.name});
  }
  if (json) {
    const nlohmann::ordered_json all{{"folder", folder}, {"kernels", rows}};
    std::printf("%s\n", all.dump(2).c_str());
    return;
  }
  print_table(table);
  std::printf("%zu kernels in %s\n", kernels.size(), folder.c_str());
}

void build_kernels(const KernelsArguments& arguments) {
  const std::vector<ops::KernelBudget> wanted = wanted_kernels(arguments);
  jit::KernelCache cache = open_cache();
  const jit::Compiler compiler;
  std::vector<BuiltKernel> kernels;
  for (const std::string& arch : arguments.archs) {
    compiler.check_arch(arch);
    std::set<std::string> seen; // two operators may share a kernel
    for (const ops::KernelBudget& kernel : wanted) {
      if (kernel.fits(arch) && seen.insert(kernel.spec.entry).second) {
        kernels.push_back({jit::request_of(kernel.spec, arch), nullptr});
      }
    }
  }
  build_all(compiler, cache, kernels);
  print_built(kernels, cache.folder(), arguments.json);
}

void tune_kernels(const KernelsArguments& arguments) {
  const c10::Device device = ops::open_device(arguments.device, "--device");
  if (!device.is_cuda()) {
    throw Error("--device: kernels are tuned on a GPU, not on " + arguments.device);
  }
  const c10::DeviceGuard guard(device);
  const std::string arch = ops::arch_of(device);
  std::fprintf(stderr, "%s\n", arch.c_str());
  const ops::Tuning tuning =
      ops::tune_kernels(ops::tuning_of(arch), device, [](const ops::TunedKey& key) {
        std::fprintf(
            stderr,
            "%-35s %lld -> %lld, %.2f times as fast; the slowest %.2f times\n",
            key.key.c_str(),
            static_cast<long long>(key.before),
            static_cast<long long>(key.value),
            key.gain,
            key.worst);
      });
  const std::string text =
      "# SPDX-License-Identifier: Apache-2.0\n# Made by `baton kernels tune`.\n" +
      config_to_toml(tuning);
  if (arguments.out.empty()) {
    std::printf("%s", text.c_str());
    return;
  }
  write_file_atomically(arguments.out, text);
}

} // namespace

void add_kernels_command(CLI::App& app) {
  const auto arguments = std::make_shared<KernelsArguments>();
  CLI::App* kernels =
      app.add_subcommand("kernels", "the cache of compiled CUDA kernels")->require_subcommand(1);

  CLI::App* list = kernels->add_subcommand("list", "show what the cache holds");
  list->add_flag("--json", arguments->json, "print JSON");
  list->callback([arguments] { list_kernels(arguments->json); });

  kernels->add_subcommand("verify", "read all entries and remove the damaged ones")->callback([] {
    verify_kernels();
  });
  kernels->add_subcommand("clear", "remove all entries")->callback([] { clear_kernels(); });

  CLI::App* tune = kernels->add_subcommand(
      "tune", "measure on a GPU how launches share work best; the table is part of the build");
  tune->add_option("--device", arguments->device, "the GPU: cuda or cuda:1")->capture_default_str();
  tune->add_option("--out", arguments->out, "write the table to this file, not to standard output");
  tune->callback([arguments] { tune_kernels(*arguments); });

  CLI::App* build =
      kernels->add_subcommand("build", "compile a model's kernels; no GPU needs to be there");
  CLI::Option* model = build->add_option(
      "model",
      arguments->model,
      "recipe, run or Hugging Face folder; without one, the kernels of all models");
  build->add_option("--set", arguments->assignments, "override a key: KEY=VALUE; may be repeated")
      ->needs(model);
  build->add_option("--arch", arguments->archs, "architectures: sm_80,sm_90a")
      ->delimiter(',')
      ->required();
  build->add_flag("--json", arguments->json, "print JSON");
  build->callback([arguments] { build_kernels(*arguments); });
}

} // namespace baton
