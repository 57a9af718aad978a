// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/mesh.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "baton/base/error.h"
#include "baton/parallel/backend.h"
#include "baton/parallel/group_link.h"

namespace baton::parallel {
namespace {

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
      throw Error(
          "cannot serve the ranks' store on " + place + " (" + reason +
          "); choose another MASTER_PORT");
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
  watch_ = std::make_shared<Watch>(store, rank, shape.size(), timeout);
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
    pipeline_links_.*link.link = connect(link.group);
  }
}

void Mesh::check_same(const std::string& what, const std::string& text) const {
  if (size() == 1) {
    return;
  }
  const auto key = [&](int rank) { return "same/" + what + "/" + std::to_string(rank); };
  store_->set(key(rank_), bytes_of(text));
  for (int rank = 0; rank < size(); ++rank) {
    std::vector<std::uint8_t> other;
    try {
      store_->wait({key(rank)}, timeout_);
      other = store_->get(key(rank));
    } catch (const std::exception&) {
      throw RunError(
          "rank " + std::to_string(rank_) + ": rank " + std::to_string(rank) + " did not say its " +
          what + watch_->find_cause());
    }
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
