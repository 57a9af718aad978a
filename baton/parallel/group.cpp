// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/group.h"

#include <exception>
#include <functional>
#include <numeric>
#include <utility>

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "baton/base/error.h"
#include "baton/parallel/group_link.h"
#include "baton/parallel/peer_error.h"

namespace baton::parallel {

struct PendingWork {
  c10::intrusive_ptr<c10d::Work> work;
  std::vector<at::Tensor> held; ///< tensors that must outlive the operation
  std::function<std::string(const std::string&)> describe; ///< a failure's line from its reason
  std::function<void()> watch; ///< of a GPU's work, once the current stream waits for it; else none
};

namespace {

/// A place in a device's current stream, for the watch: done when the stream has come there. The
/// work that the stream waits for would do, but it keeps its tensors as long as it lives.
class StreamMark : public c10d::Work {
 public:
  explicit StreamMark(c10::Device device) : event_(device.type()) {
    event_.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  }
  bool isCompleted() override { return event_.query(); }

 private:
  c10::Event event_;
};

// First line only: some of these come with a trace.
std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

at::Tensor as_bytes(const at::Tensor& values) {
  TORCH_INTERNAL_ASSERT(values.is_contiguous(), "a collective takes contiguous tensors");
  return values.view({-1}).view(at::kByte);
}

std::int64_t sum(const std::vector<std::int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

} // namespace

void Pending::wait() {
  if (work_ == nullptr) {
    return;
  }
  const std::shared_ptr<PendingWork> pending = std::move(work_);
  try {
    pending->work->wait();
  } catch (const std::exception& error) {
    throw PeerError(pending->describe(first_line(error.what())));
  }
  if (pending->watch) {
    pending->watch();
  }
}

Group::Group() : traffic_(std::make_shared<Traffic>()) {}

Group::Group(std::string axis, int rank, int size, std::shared_ptr<const GroupLink> link)
    : axis_(std::move(axis)),
      rank_(rank),
      size_(size),
      link_(std::move(link)),
      traffic_(std::make_shared<Traffic>()) {}

template <class Start>
Pending Group::begin(const char* operation, std::vector<at::Tensor> held, const Start& start)
    const {
  const std::shared_ptr<Watch>& watch = link_->watch;
  const std::string name = "rank " + std::to_string(watch->rank()) + ": " + operation + " along " +
                           axis_ + " (rank " + std::to_string(rank_) + " of " +
                           std::to_string(size_) + " there) failed: ";
  const auto pending = std::make_shared<PendingWork>();
  pending->describe = [name, watch](const std::string& reason) {
    return name + reason + watch->find_cause();
  };
  try {
    pending->work = start(*link_->backend);
  } catch (const std::exception& error) {
    throw PeerError(pending->describe(first_line(error.what())));
  }
  if (!link_->device.is_cpu()) {
    pending->watch = [name, watch, device = link_->device] {
      watch->expect(c10::make_intrusive<StreamMark>(device), [name](const std::string& reason) {
        return name + reason;
      });
    };
  }
  pending->held = std::move(held);
  Pending begun;
  begun.work_ = pending;
  return begun;
}

Pending Group::start_all_gather(const at::Tensor& values, const at::Tensor& gathered) const {
  if (alone()) {
    gathered.view_as(values).copy_(values);
    return {};
  }
  if (values.numel() == 0) {
    return {};
  }
  traffic_->all_gather += (size_ - 1) * static_cast<std::int64_t>(values.nbytes());
  at::Tensor in = as_bytes(values);
  at::Tensor out = as_bytes(gathered);
  return begin("all_gather", {in, out}, [&](c10d::Backend& backend) {
    return backend._allgather_base(out, in);
  });
}

at::Tensor Group::all_gather(const at::Tensor& values) const {
  std::vector<std::int64_t> shape{size_};
  shape.insert(shape.end(), values.sizes().begin(), values.sizes().end());
  const at::Tensor gathered = at::empty(shape, values.options());
  start_all_gather(values, gathered).wait();
  return gathered;
}

Pending Group::start_all_to_all(
    const at::Tensor& rows,
    const at::Tensor& received,
    const std::vector<std::int64_t>& counts_out,
    const std::vector<std::int64_t>& counts_in) const {
  TORCH_INTERNAL_ASSERT(
      sum(counts_out) == rows.size(0) && sum(counts_in) == received.size(0),
      "all_to_all moves other rows than there are");
  if (alone()) {
    received.copy_(rows);
    return {};
  }
  const std::int64_t row = c10::multiply_integers(rows.sizes().slice(1)) *
                           static_cast<std::int64_t>(rows.element_size());
  const auto in_bytes = [row](std::vector<std::int64_t> counts) {
    for (std::int64_t& count : counts) {
      count *= row;
    }
    return counts;
  };
  std::vector<std::int64_t> out_bytes = in_bytes(counts_out);
  std::vector<std::int64_t> received_bytes = in_bytes(counts_in);
  traffic_->all_to_all += sum(out_bytes) - out_bytes[static_cast<std::size_t>(rank_)];
  at::Tensor in = as_bytes(rows);
  at::Tensor out = as_bytes(received);
  return begin("all_to_all", {in, out}, [&](c10d::Backend& backend) {
    return backend.alltoall_base(out, in, received_bytes, out_bytes);
  });
}

at::Tensor Group::all_to_all(
    const at::Tensor& rows,
    const std::vector<std::int64_t>& counts_out,
    const std::vector<std::int64_t>& counts_in) const {
  std::vector<std::int64_t> shape = rows.sizes().vec();
  shape[0] = sum(counts_in);
  at::Tensor received = at::empty(shape, rows.options());
  start_all_to_all(rows, received, counts_out, counts_in).wait();
  return received;
}

Pending Group::start_all_reduce_(const at::Tensor& values) const {
  if (alone() || values.numel() == 0) {
    return {};
  }
  // What a ring sends.
  traffic_->all_reduce += 2 * (size_ - 1) * static_cast<std::int64_t>(values.nbytes()) / size_;
  std::vector<at::Tensor> tensors{values.view({-1})};
  return begin(
      "all_reduce", tensors, [&](c10d::Backend& backend) { return backend.allreduce(tensors); });
}

void Group::all_reduce_(const at::Tensor& values) const {
  start_all_reduce_(values).wait();
}

Pending Group::start_reduce_scatter(const at::Tensor& values, const at::Tensor& own) const {
  if (alone()) {
    own.view({-1}).copy_(values.view({-1}));
    return {};
  }
  if (own.numel() == 0) {
    return {};
  }
  traffic_->reduce_scatter += (size_ - 1) * static_cast<std::int64_t>(own.nbytes());
  at::Tensor in = values.view({-1});
  at::Tensor out = own.view({-1});
  return begin("reduce_scatter", {in, out}, [&](c10d::Backend& backend) {
    return backend._reduce_scatter_base(out, in);
  });
}

void Group::broadcast_(const at::Tensor& values, int root) const {
  if (alone() || values.numel() == 0) {
    return;
  }
  traffic_->broadcast += rank_ == root ? static_cast<std::int64_t>(values.nbytes()) : 0;
  std::vector<at::Tensor> tensors{as_bytes(values)};
  begin("broadcast", tensors, [&](c10d::Backend& backend) {
    return backend.broadcast(tensors, {.rootRank = root});
  }).wait();
}

void Group::barrier() const {
  if (!alone()) {
    c10d::BarrierOptions options;
    if (!link_->device.is_cpu()) {
      options.device_ids = {link_->device.index()};
    }
    begin("barrier", {}, [&](c10d::Backend& backend) { return backend.barrier(options); }).wait();
  }
}

} // namespace baton::parallel
