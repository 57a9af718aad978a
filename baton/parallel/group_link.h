// SPDX-License-Identifier: Apache-2.0
// What a group is made of, apart from its header because torch's own headers of it are large.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <c10/core/Device.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "baton/parallel/watch.h"

namespace baton::parallel {

/// Something that has no end of its own if another rank is gone, such as meeting or parting: while
/// this object lives, the watch ends the process with `describe(reason)` once it takes too long.
class Guard {
 public:
  Guard(Watch& watch, std::function<std::string(const std::string&)> describe);
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  class Doing;
  c10::intrusive_ptr<Doing> doing_;
};

/// On GPUs the ranks of a group part together. One that stops for a failure does not wait for the
/// others: it ends what it has begun with them.
struct GroupLink {
  GroupLink(
      std::string name,
      c10::Device device,
      c10::intrusive_ptr<c10d::Backend> backend,
      std::shared_ptr<Watch> watch);
  ~GroupLink();
  GroupLink(const GroupLink&) = delete;
  GroupLink& operator=(const GroupLink&) = delete;

  const std::string name;
  const c10::Device device;
  const c10::intrusive_ptr<c10d::Backend> backend;
  const std::shared_ptr<Watch> watch;
};

} // namespace baton::parallel
