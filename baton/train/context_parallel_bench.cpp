// SPDX-License-Identifier: Apache-2.0
// What a stream costs that ranks share, beside the same stream on one rank: forward and backward of
// one Mamba-2 layer and of a stack with all layer kinds, and a Mamba-2 layer's messages without its
// work. A launcher starts one process a rank:
//
//   torchrun --no-python --nproc-per-node 2 build/baton/train_context_parallel_bench [TOKENS or
//   LAYERS...]
//
// A stream that is too long for one rank is seen to be: "out of memory" stands in its place.
// Without GPUs it runs in small sizes, to be seen to work.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "baton/base/random.h"
#include "baton/model/stack.h"
#include "baton/ops/cuda_module.h"
#include "baton/ops/device.h"
#include "baton/parallel/context.h"
#include "baton/parallel/mesh.h"

namespace baton::train {
namespace {

using Clock = std::chrono::steady_clock;
using parallel::Axis;
using parallel::Context;
using parallel::ContextRules;
using parallel::ContextStrategy;
using parallel::KeyExchange;
using parallel::Mesh;

constexpr std::size_t kRuns = 5;
// A pass over more tokens with attention takes seconds, and one tells enough.
constexpr std::int64_t kManyTokens = 131072;

/// What is measured: a stack under one way to share.
struct Way {
  const char* name;
  std::optional<ContextRules> rules; ///< none: one rank alone
};

const std::vector<Way> kWays{
    {"one rank", std::nullopt},
    {"baton", ContextRules{}},
    {"baton, ring", ContextRules{ContextStrategy::kBaton, KeyExchange::kRing}},
    {"all-to-all", ContextRules{ContextStrategy::kAllToAll}}};

nn::LayerConfig layer_config(bool small) {
  nn::LayerConfig config;
  config.width = small ? 64 : 2048;
  config.dtype = small ? at::kFloat : at::kBFloat16;
  config.mamba.num_heads = small ? 4 : 64;
  config.mamba.head_dim = small ? 16 : 64;
  config.mamba.num_groups = small ? 2 : 8;
  config.mamba.state_size = small ? 16 : 128;
  config.attention.num_heads = small ? 4 : 16;
  config.attention.num_kv_heads = small ? 2 : 8;
  config.attention.head_dim = small ? 16 : 128;
  config.mlp.hidden = small ? 128 : 8192;
  return config;
}

void wait_for(at::Device device) {
  if (!device.is_cpu()) {
    c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
  }
}

/// What a rank takes and sends.
struct Cost {
  double milliseconds = 0.0;
  std::int64_t bytes = 0;
};

/// The median of some runs, each begun by all `ranks` at once; bytes along cp.
Cost cost_of(
    const Mesh& mesh,
    const parallel::Group& ranks,
    at::Device device,
    std::size_t runs,
    const std::function<void()>& work) {
  work();
  const parallel::Traffic& traffic = mesh.along(Axis::kContext).traffic();
  const std::int64_t before = traffic.total();
  std::vector<double> times;
  while (times.size() < runs) {
    wait_for(device);
    ranks.barrier();
    const auto start = Clock::now();
    work();
    wait_for(device);
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  return {times[runs / 2], (traffic.total() - before) / static_cast<std::int64_t>(runs)};
}

class Measurement {
 public:
  Measurement(const Mesh& mesh, at::Device device, const std::string& symbols)
      : mesh_(mesh),
        device_(device),
        has_attention_(symbols.find('*') != std::string::npos),
        config_(layer_config(device.is_cpu())),
        stack_(symbols, config_, store_) {
    store_.initialize(1, config_.dtype, device);
  }

  /// A forward and a backward pass.
  Cost of(const Way& way, std::int64_t tokens) {
    const SequenceLayout stream = make_layout_from_lengths({tokens});
    c10::intrusive_ptr<Context> shared;
    if (way.rules) {
      shared =
          c10::make_intrusive<Context>(stream, mesh_.along(Axis::kContext), *way.rules, device_);
    }
    const SequenceLayout layout = shared ? shared->layout() : stream.to(device_);
    at::Tensor hidden_TD = at::randn(
        {layout.num_tokens, config_.width},
        at::TensorOptions().dtype(config_.dtype).device(device_));
    hidden_TD.requires_grad_(true);
    const at::Tensor slope_TD = at::randn_like(hidden_TD);
    const auto pass = [&] {
      const nn::StepContext context{
          .layout = layout, .positions_T = layout.positions(), .shared = shared.get()};
      stack_.forward(hidden_TD, context, {}).hidden_TD.backward(slope_TD);
      hidden_TD.mutable_grad() = at::Tensor();
      drop_gradients();
    };
    return cost_of(
        mesh_,
        way.rules ? mesh_.all() : parallel::Group(),
        device_,
        has_attention_ && tokens > kManyTokens ? 1 : kRuns,
        pass);
  }

  void drop_gradients() {
    for (const nn::Parameter& parameter : store_.parameters()) {
      parameter.value.mutable_grad() = at::Tensor();
    }
  }

 private:
  const Mesh& mesh_;
  at::Device device_;
  bool has_attention_;
  nn::LayerConfig config_;
  nn::ParameterStore store_;
  model::Stack stack_;
};

/// What the ranks tell each other in both passes of a Mamba-2 layer by the baton, without the work
/// that it runs beside.
void print_messages(const Mesh& mesh, at::Device device) {
  const nn::Mamba2Config config = layer_config(device.is_cpu()).mamba;
  const std::int64_t width = config.conv_width;
  const std::int64_t channels = config.inner() + 2 * config.num_groups * config.state_size;
  const auto shared = c10::make_intrusive<Context>(
      make_layout_from_lengths({64 * mesh.size()}),
      mesh.along(Axis::kContext),
      ContextRules{},
      device);
  const at::TensorOptions options = at::TensorOptions().dtype(at::kFloat).device(device);
  const parallel::SegmentStates states{
      at::randn({2, config.num_heads, config.head_dim, config.state_size}, options),
      -at::rand({2, config.num_heads}, options)};
  const at::Tensor x_TC = at::randn({shared->layout().num_tokens, channels}, options)
                              .to(layer_config(device.is_cpu()).dtype);
  const Cost cost = cost_of(mesh, mesh.all(), device, kRuns, [&] {
    at::Tensor gathered;
    shared->start_tails(x_TC, width, gathered).wait();
    const at::Tensor tails_SCK = shared->tails_from(gathered);
    shared->pass_states(states, parallel::Direction::kForward);
    shared->pass_states(states, parallel::Direction::kBackward);
    shared->start_tail_gradients(tails_SCK, gathered).wait();
    shared->add_tail_gradients_(gathered, x_TC);
  });
  if (mesh.rank() == 0) {
    std::printf(
        "messages of a Mamba-2 layer alone, forward and backward: %.3f ms, %.2f MB\n",
        cost.milliseconds,
        1e-6 * static_cast<double>(cost.bytes));
  }
}

std::string cell_text(const Cost& cost, double alone) {
  char text[96];
  std::snprintf(
      text,
      sizeof(text),
      " %.2f ms, %.2f MB |",
      cost.milliseconds,
      1e-6 * static_cast<double>(cost.bytes));
  std::string cell = text;
  if (alone > 0.0) {
    std::snprintf(text, sizeof(text), ", %.2f x |", alone / cost.milliseconds);
    cell.replace(cell.size() - 2, 2, text);
  }
  return cell;
}

void print_row(
    const Mesh& mesh,
    at::Device device,
    const std::string& symbols,
    std::int64_t tokens) {
  Measurement measurement(mesh, device, symbols);
  double alone = 0.0;
  std::string row = "| " + symbols + " | " + std::to_string(tokens) + " |";
  for (const Way& way : kWays) {
    std::string cell = " - |";
    const bool needs_attention = way.rules && way.rules->keys == KeyExchange::kRing;
    if ((way.rules || mesh.rank() == 0) &&
        (!needs_attention || symbols.find('*') != std::string::npos)) {
      try {
        const Cost cost = measurement.of(way, tokens);
        alone = way.rules ? alone : cost.milliseconds;
        cell = cell_text(cost, alone);
      } catch (const c10::OutOfMemoryError&) {
        if (way.rules) {
          throw; // the others would wait
        }
        cell = " out of memory |";
        measurement.drop_gradients();
      }
    }
    row += cell;
    mesh.all().barrier();
  }
  if (mesh.rank() == 0) {
    std::printf("%s\n", row.c_str());
    std::fflush(stdout);
  }
}

void run(const std::vector<std::string>& patterns, const std::vector<std::int64_t>& lengths) {
  const parallel::Launch launch = parallel::read_launch();
  const bool on_gpu = ops::cuda_device_count() > launch.local_rank;
  const at::Device device =
      ops::open_device(on_gpu ? "cuda:" + std::to_string(launch.local_rank) : "cpu", "device");
  ops::set_arithmetic(true);
  parallel::ParallelConfig config;
  config.cp = launch.world_size;
  const std::chrono::seconds timeout(600); // others wait while one rank works alone
  const Mesh mesh = launch.world_size == 1
                        ? Mesh()
                        : Mesh(
                              parallel::make_mesh_shape(config, launch.world_size),
                              launch.rank,
                              parallel::open_store(launch, timeout),
                              device,
                              timeout);
  if (mesh.rank() == 0) {
    std::printf("%d ranks on %s\n", mesh.size(), on_gpu ? "GPUs" : "CPUs");
  }
  print_messages(mesh, device);
  if (mesh.rank() == 0) {
    std::printf("| layers | tokens |");
    for (const Way& way : kWays) {
      std::printf(" %s |", way.name);
    }
    std::printf("\n|---|---|---|---|---|---|\n");
  }
  for (const std::string& symbols : patterns) {
    for (const std::int64_t tokens : lengths) {
      print_row(mesh, device, symbols, on_gpu ? tokens : tokens / 64);
    }
  }
}

} // namespace
} // namespace baton::train

int main(int count, char** values) {
  std::vector<std::string> patterns;
  std::vector<std::int64_t> lengths;
  for (int i = 1; i < count; ++i) {
    const std::string value = values[i];
    if (value.find_first_not_of("0123456789") == std::string::npos) {
      lengths.push_back(std::stoll(value));
    } else {
      patterns.push_back(value);
    }
  }
  if (patterns.empty()) {
    patterns = {"M", "M-M*"};
  }
  if (lengths.empty()) {
    lengths = {16384, 131072};
  }
  try {
    baton::train::run(patterns, lengths);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
