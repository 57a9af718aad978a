// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/mesh.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "baton/base/error.h"
#include "baton/parallel/backend.h"
#include "baton/parallel/group_link.h"

namespace baton::parallel {
namespace {

// A rank that waits longer than this for another asks how the others are.
constexpr std::chrono::seconds kPatience{20};

/// Ranks of a group by the coordinates that vary in it, fastest first.
struct GroupPlan {
  std::string name; ///< with what tells it from its likes: "cp/12"
  std::string axis;
  int rank = 0;
  int size = 1;
};

/// The group of `rank` in which the axes of `varies` vary and the others stand.
GroupPlan plan_group(
    const MeshShape& shape,
    int rank,
    const std::vector<Axis>& varies,
    const std::string& axis) {
  GroupPlan plan{.name = axis + "/", .axis = axis};
  int stride = 1;
  int lowest = rank;
  int of_axis = 1;
  for (const Axis each : kAxes) {
    const int coordinate = shape.coordinate(each, rank);
    for (const Axis one : varies) {
      if (one == each) {
        plan.rank += coordinate * of_axis;
        of_axis *= shape.along(each);
        lowest -= coordinate * stride;
      }
    }
    stride *= shape.along(each);
  }
  plan.size = of_axis;
  plan.name += std::to_string(lowest);
  return plan;
}

struct LinkPlan {
  Group PipelineLinks::*link;
  GroupPlan group;
};

/// This rank's links, in an order in which no ranks of a ring wait for each other: by the rank from
/// which activations come.
std::vector<LinkPlan> plan_links(const GroupPlan& pipeline) {
  std::vector<LinkPlan> links;
  const auto add = [&](Group PipelineLinks::*link, const std::string& what, int from, int place) {
    const std::string name = "pp " + what;
    links.push_back(
        {link,
         {.name = name + "/" + pipeline.name + "/" + std::to_string(from),
          .axis = name,
          .rank = place,
          .size = 2}});
  };
  for (int from = 0; pipeline.size > 1 && from < pipeline.size; ++from) {
    if (from == pipeline.rank) {
      add(&PipelineLinks::activations_out, "activations", from, 0);
      add(&PipelineLinks::gradients_in, "gradients", from, 1);
    } else if ((from + 1) % pipeline.size == pipeline.rank) {
      add(&PipelineLinks::activations_in, "activations", from, 1);
      add(&PipelineLinks::gradients_out, "gradients", from, 0);
    }
  }
  return links;
}

std::vector<std::uint8_t> bytes_of(const std::string& text) {
  return {text.begin(), text.end()};
}

/// Throws where another process has this rank's place.
void take_place(c10d::Store& store, int rank) {
  if (store.add("place/" + std::to_string(rank), 1) != 1) {
    throw Error(
        "another process of the run is rank " + std::to_string(rank) +
        " already; a launcher gives each its own");
  }
}

/// What is wrong with this rank's number of ranks, beside that of the rank that came first; empty
/// where nothing is.
std::string wrong_size(c10d::Store& store, int rank, int size) {
  const std::vector<std::uint8_t> first =
      store.compareSet("number of ranks", {}, bytes_of(std::to_string(size)));
  const std::string text(first.begin(), first.end());
  return text == std::to_string(size) ? ""
                                      : "rank " + std::to_string(rank) + " was told of " +
                                            std::to_string(size) + " ranks, another one of " + text;
}

} // namespace

const char* axis_name(Axis axis) {
  switch (axis) {
    case Axis::kTensor:
      return "tp";
    case Axis::kContext:
      return "cp";
    case Axis::kData:
      return "dp";
    case Axis::kPipeline:
      return "pp";
  }
  return "";
}

int MeshShape::coordinate(Axis axis, int rank) const {
  for (const Axis each : kAxes) {
    if (each == axis) {
      break;
    }
    rank /= along(each);
  }
  return rank % along(axis);
}

std::string MeshShape::text() const {
  std::string text;
  for (auto axis = kAxes.rbegin(); axis != kAxes.rend(); ++axis) {
    text += std::string(text.empty() ? "" : ", ") + axis_name(*axis) + " " +
            std::to_string(along(*axis));
  }
  return text;
}

MeshShape make_mesh_shape(const ParallelConfig& config, int world_size) {
  const std::int64_t fixed = config.tp * config.cp * config.pp;
  if (world_size % fixed != 0) {
    throw Error(
        "parallel: pp x cp x tp must divide the number of ranks: " + std::to_string(config.pp) +
        " x " + std::to_string(config.cp) + " x " + std::to_string(config.tp) + " vs " +
        std::to_string(world_size) + "; the nearest number of ranks that can be is " +
        std::to_string(std::max<std::int64_t>(1, (world_size + fixed / 2) / fixed) * fixed));
  }
  return {
      {static_cast<int>(config.tp),
       static_cast<int>(config.cp),
       static_cast<int>(world_size / fixed),
       static_cast<int>(config.pp)}};
}

c10::intrusive_ptr<c10d::Store> open_store(
    const Launch& launch,
    std::chrono::milliseconds timeout) {
  if (!read_env(kEnvTorchLog)) {
    // Torch logs a stack trace when the rank that serves the store is the first to go, though that
    // is how every run ends; and what is worth a line, the watch says.
    FLAGS_caffe2_log_level = 3;
  }
  c10d::TCPStoreOptions options;
  options.port = launch.port;
  options.isServer = launch.rank == 0 && !launch.agent_store;
  options.numWorkers = static_cast<std::size_t>(launch.world_size);
  options.waitWorkers = false;
  options.timeout = timeout;
  const std::string place = launch.address + ":" + std::to_string(launch.port);
  try {
    const auto store = c10::make_intrusive<c10d::TCPStore>(launch.address, options);
    return c10::make_intrusive<c10d::PrefixStore>("baton/" + std::to_string(launch.restart), store);
  } catch (const std::exception& error) {
    const std::string reason =
        std::string(error.what()).substr(0, std::string(error.what()).find('\n'));
    if (options.isServer) {
      const bool taken = reason.find("EADDRINUSE") != std::string::npos;
      throw Error(
          "cannot serve the ranks' store on " + place + " (" + reason + "); " +
          (taken ? "choose another MASTER_PORT"
                 : "MASTER_ADDR must be a name of the host of rank 0"));
    }
    throw RunError("no store answers on " + place + ": " + reason);
  }
}

Mesh::Mesh() : Mesh({}, 0, nullptr, c10::kCPU, std::chrono::milliseconds(0)) {}

Mesh::Mesh(
    const MeshShape& shape,
    int rank,
    const c10::intrusive_ptr<c10d::Store>& store,
    c10::Device device,
    std::chrono::milliseconds timeout)
    : shape_(shape), rank_(rank), store_(store), timeout_(timeout) {
  if (shape.size() == 1) {
    return;
  }
  take_place(*store, rank);
  watch_ = std::make_shared<Watch>(store, rank, shape.size(), timeout);
  const std::string wrong = wrong_size(*store, rank, shape.size());
  if (!wrong.empty()) {
    watch_->say_why_stopping(wrong);
    throw Error(wrong);
  }
  const auto connect = [&](const GroupPlan& plan) {
    const std::string& axis = plan.axis;
    if (plan.size == 1) {
      return Group();
    }
    const auto describe = [failed = "rank " + std::to_string(rank) +
                                    ": cannot connect the ranks along " + axis +
                                    ": "](const std::string& reason) { return failed + reason; };
    try {
      const Guard guard(*watch_, describe);
      return Group(
          axis,
          plan.rank,
          plan.size,
          std::make_shared<const GroupLink>(
              axis,
              device,
              make_backend(
                  {.store = c10::make_intrusive<c10d::PrefixStore>("group/" + plan.name, store),
                   .rank = plan.rank,
                   .size = plan.size,
                   .name = plan.name,
                   .device = device,
                   .timeout = timeout}),
              watch_));
    } catch (const std::exception& error) {
      const std::string text = error.what();
      throw RunError(describe(text.substr(0, text.find('\n'))) + watch_->find_cause());
    }
  };
  const auto make = [&](const std::vector<Axis>& varies, const std::string& axis) {
    return connect(plan_group(shape, rank, varies, axis));
  };
  for (const Axis axis : kAxes) {
    groups_[static_cast<std::size_t>(axis)] = make({axis}, axis_name(axis));
  }
  replicas_ = make({Axis::kContext, Axis::kData}, "dp x cp");
  all_ = make({kAxes.begin(), kAxes.end()}, "all");
  const GroupPlan pipeline = plan_group(shape, rank, {Axis::kPipeline}, "pp");
  for (const LinkPlan& link : plan_links(pipeline)) {
    Group& made = pipeline_links_.*link.link = connect(link.group);
    // Two GPUs connect with their first message, which takes their hosts' time and the GPUs'
    // memory: not while another message waits on one of them.
    if (!device.is_cpu() && !made.alone()) {
      const at::Tensor rows = at::zeros({made.size()}, at::TensorOptions(at::kByte).device(device));
      const std::vector<std::int64_t> one_each(static_cast<std::size_t>(made.size()), 1);
      made.all_to_all(rows, one_each, one_each).cpu();
    }
  }
}

void Mesh::wait_for(const std::string& key, int rank, const std::string& what) const {
  const auto begin = std::chrono::steady_clock::now();
  for (;;) {
    try {
      store_->wait({key}, std::min<std::chrono::milliseconds>(timeout_, kPatience));
      return;
    } catch (const std::exception&) {
      const std::string cause = watch_->find_cause();
      if (!cause.empty() || std::chrono::steady_clock::now() - begin > timeout_) {
        throw RunError(
            "rank " + std::to_string(rank_) + ": rank " + std::to_string(rank) +
            " did not say its " + what + cause);
      }
    }
  }
}

void Mesh::check_same(const std::string& what, const std::string& text) const {
  if (size() == 1) {
    return;
  }
  const auto key = [&](int rank) { return "same/" + what + "/" + std::to_string(rank); };
  store_->set(key(rank_), bytes_of(text));
  for (int rank = 0; rank < size(); ++rank) {
    wait_for(key(rank), rank, what);
    const std::vector<std::uint8_t> other = store_->get(key(rank));
    if (other != bytes_of(text)) {
      throw Error(
          "rank " + std::to_string(rank) + " has another " + what + " than rank " +
          std::to_string(rank_) + ": \"" + std::string(other.begin(), other.end()) + "\" vs \"" +
          text + "\"");
    }
  }
}

void Mesh::say_why_stopping(const std::string& reason) const {
  if (watch_ != nullptr) {
    watch_->say_why_stopping(reason);
  }
}

} // namespace baton::parallel
