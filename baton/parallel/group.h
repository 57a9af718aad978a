// SPDX-License-Identifier: Apache-2.0
// Ranks that talk to each other, and what they can do together.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace baton::parallel {

/// How the ranks of a group reach each other; made by the mesh.
struct GroupLink;
/// An operation of the library below.
struct PendingWork;

/// A collective that has begun. What it writes may be read after `wait`.
class Pending {
 public:
  Pending() = default; ///< of something that is done already

  /// On a GPU the current stream waits, not the host. Throws PeerError that names rank, axis and
  /// operation when a rank is gone or the time is up.
  void wait();

 private:
  friend class Group;
  std::shared_ptr<PendingWork> work_;
};

/// Bytes that this rank has sent to others, by what it called.
struct Traffic {
  std::int64_t all_reduce = 0;
  std::int64_t all_gather = 0;
  std::int64_t reduce_scatter = 0;
  std::int64_t all_to_all = 0;
  std::int64_t broadcast = 0;

  std::int64_t total() const {
    return all_reduce + all_gather + reduce_scatter + all_to_all + broadcast;
  }
};

/// All ranks of a group call the same functions in the same order. Tensors must be contiguous and
/// on the mesh's device. A group of one rank moves nothing.
///
/// Data moves as bytes, so that any dtype will do, but for sums, which take fp32 and fp64.
class Group {
 public:
  Group(); ///< of this rank alone
  Group(std::string axis, int rank, int size, std::shared_ptr<const GroupLink> link);

  const std::string& axis() const { return axis_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  bool alone() const { return size_ == 1; }

  /// values [...] -> [size, ...] in rank order.
  at::Tensor all_gather(const at::Tensor& values) const;
  Pending start_all_gather(const at::Tensor& values, const at::Tensor& gathered) const;

  /// Sends `counts_out[r]` rows of `rows` (along dim 0) to rank r, in rank order, and returns the
  /// rows received, `counts_in[r]` from rank r.
  at::Tensor all_to_all(
      const at::Tensor& rows,
      const std::vector<std::int64_t>& counts_out,
      const std::vector<std::int64_t>& counts_in) const;
  Pending start_all_to_all(
      const at::Tensor& rows,
      const at::Tensor& received,
      const std::vector<std::int64_t>& counts_out,
      const std::vector<std::int64_t>& counts_in) const;

  /// Adds up over the ranks, in place. The order of additions is the library's, the same each time.
  void all_reduce_(const at::Tensor& values) const;
  Pending start_all_reduce_(const at::Tensor& values) const;

  /// values [size n] -> own [n]: the sum over ranks of piece `rank`.
  Pending start_reduce_scatter(const at::Tensor& values, const at::Tensor& own) const;

  /// Everyone gets what `root` has.
  void broadcast_(const at::Tensor& values, int root) const;

  /// Returns when all ranks have called it.
  void barrier() const;

  const Traffic& traffic() const { return *traffic_; }

 private:
  template <class Start>
  Pending begin(const char* operation, std::vector<at::Tensor> held, const Start& start) const;

  std::string axis_ = "alone";
  int rank_ = 0;
  int size_ = 1;
  std::shared_ptr<const GroupLink> link_;
  std::shared_ptr<Traffic> traffic_;
};

} // namespace baton::parallel
