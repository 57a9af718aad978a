// SPDX-License-Identifier: Apache-2.0
// The ranks of a run as a grid with named axes, and the groups along them.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include <c10/core/Device.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "baton/parallel/config.h"
#include "baton/parallel/group.h"
#include "baton/parallel/launch.h"

namespace baton::parallel {

class Watch;

/// Ways of one direction between neighbours of a pipeline's ring, each a group of two in which
/// rank 0 sends and rank 1 receives. Apart from each other, so that a message that is waited for
/// never holds up another. All alone where there is one pipeline rank.
struct PipelineLinks {
  Group activations_in;  ///< from the rank before, to rank 0 from the last one
  Group activations_out; ///< to the rank behind
  Group gradients_in;    ///< from the rank behind
  Group gradients_out;   ///< to the rank before
};

/// From the fastest to the slowest: neighbouring ranks share a matrix.
enum class Axis { kTensor, kContext, kData, kPipeline };
inline constexpr std::array<Axis, 4> kAxes{
    Axis::kTensor,
    Axis::kContext,
    Axis::kData,
    Axis::kPipeline};

/// "tp", "cp", "dp" or "pp".
const char* axis_name(Axis axis);

struct MeshShape {
  std::array<int, 4> sizes{1, 1, 1, 1}; ///< by axis

  int along(Axis axis) const { return sizes[static_cast<std::size_t>(axis)]; }
  int size() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3]; }
  int coordinate(Axis axis, int rank) const;
  std::string text() const; ///< "pp 1, dp 2, cp 4, tp 1"
};

/// The recipe's axes; dp is what is left of `world_size`. Throws `Error` with the rule where they
/// do not divide it.
MeshShape make_mesh_shape(const ParallelConfig& config, int world_size);

/// Opens the run's store: a client of torchrun's agent, else rank 0 serves it. Throws `Error` where
/// the port is in use, RunError where nobody answers in time.
c10::intrusive_ptr<c10d::Store> open_store(const Launch& launch, std::chrono::milliseconds timeout);

/// Every rank of a run holds one, with the groups that it is in. All are built at once when it is
/// made. Default: one rank, no store.
class Mesh {
 public:
  Mesh();

  /// Rank `rank` of a mesh whose ranks meet at `store`, by NCCL on a GPU and by Gloo on CPUs.
  Mesh(
      const MeshShape& shape,
      int rank,
      const c10::intrusive_ptr<c10d::Store>& store,
      c10::Device device,
      std::chrono::milliseconds timeout);

  const MeshShape& shape() const { return shape_; }
  int rank() const { return rank_; }
  int size() const { return shape_.size(); }
  int coordinate(Axis axis) const { return shape_.coordinate(axis, rank_); }
  const Group& along(Axis axis) const { return groups_[static_cast<std::size_t>(axis)]; }
  /// Ranks that hold the same parameters: those of dp and cp together, cp faster.
  const Group& replicas() const { return replicas_; }
  const Group& all() const { return all_; }
  const PipelineLinks& pipeline_links() const { return pipeline_links_; }

  /// Throws `Error` on every rank, naming the first that differs, unless all give the same text for
  /// `what`, such as the program's version.
  void check_same(const std::string& what, const std::string& text) const;

  /// Tells the others why this rank stops, for their messages.
  void say_why_stopping(const std::string& reason) const;

 private:
  /// Until `rank` has left its `what` in the store; throws RunError when it is gone or late.
  void wait_for(const std::string& key, int rank, const std::string& what) const;

  MeshShape shape_;
  int rank_ = 0;
  c10::intrusive_ptr<c10d::Store> store_;
  std::chrono::milliseconds timeout_{0};
  std::shared_ptr<Watch> watch_;
  std::array<Group, 4> groups_;
  Group replicas_;
  Group all_;
  PipelineLinks pipeline_links_;
};

} // namespace baton::parallel
