// SPDX-License-Identifier: Apache-2.0
// What a group is made of, apart from its header because torch's own headers of it are large.
#pragma once

#include <memory>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "baton/parallel/watch.h"

namespace baton::parallel {

struct GroupLink {
  c10::intrusive_ptr<c10d::Backend> backend;
  std::shared_ptr<Watch> watch;
};

} // namespace baton::parallel
