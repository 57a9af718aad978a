// SPDX-License-Identifier: Apache-2.0
// Groups of ranks on GPUs, by torch's NCCL group. Part of the CUDA module, which registers it.
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Context.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "baton/base/env.h"
#include "baton/base/error.h"
#include "baton/parallel/backend.h"

namespace baton::parallel {
namespace {

using NcclGroup = c10d::ProcessGroupNCCL;

// The watch ends a rank that waits in vain; torch's own clock must never strike before it.
constexpr std::chrono::hours kLongerThanTheWatch{24};

void set_default(const EnvVariable& variable, const char* value) {
  setenv(variable.name, value, /*overwrite=*/0);
}

// Torch's watchdogs end a process by abort, with a stack trace and after minutes. The watch of
// Baton does it in one line that names rank, axis and operation, so that all of theirs are off.
void silence_torch() {
  set_default(kEnvNcclErrors, "0");
  set_default(kEnvNcclMonitoring, "0");
  set_default(kEnvNcclDump, "0");
  set_default(kEnvNcclDumpWait, "250");
  set_default(kEnvNcclRethrow, "0");
  set_default(kEnvFlightRecorder, "0");
}

// A ring adds in the same order each time. Trees and sums in the switch do not promise it; without
// the latter there is no need to claim memory of the switch.
void add_in_fixed_order() {
  set_default(kEnvNcclAlgorithm, "Ring");
  set_default(kEnvNcclMulticast, "0");
}

// The options are laid out by this file and filled by torch: both must have seen one nccl.h.
void check_layout(const NcclGroup::Options& options) {
  TORCH_INTERNAL_ASSERT(
      options.config.size == sizeof(ncclConfig_t) && options.split_color == NCCL_SPLIT_NOCOLOR - 1,
      "this torch was built with another nccl.h than Baton's ",
      NCCL_MAJOR,
      ".",
      NCCL_MINOR);
}

// NCCL waits for a rank that never comes without an end, the store does not.
void meet(const BackendRequest& request) {
  std::vector<std::string> all;
  all.reserve(static_cast<std::size_t>(request.size));
  for (int rank = 0; rank < request.size; ++rank) {
    all.push_back("here/" + std::to_string(rank));
  }
  request.store->set(all[static_cast<std::size_t>(request.rank)], std::vector<std::uint8_t>{1});
  request.store->wait(all, request.timeout);
}

c10::intrusive_ptr<c10d::Backend> make_nccl_backend(const BackendRequest& request) {
  silence_torch();
  if (at::globalContext().deterministicAlgorithms()) {
    add_in_fixed_order();
  }
  auto options = NcclGroup::Options::create(/*is_high_priority_stream=*/true);
  check_layout(*options);
  options->timeout = request.timeout + kLongerThanTheWatch;
  options->group_name = request.name;
  meet(request);
  auto group =
      c10::make_intrusive<NcclGroup>(request.store, request.rank, request.size, std::move(options));
  group->setBoundDeviceId(request.device);
  group->eagerConnectSingleDevice(request.device);
  return group;
}

[[maybe_unused]] const bool kRegistered = (register_nccl(&make_nccl_backend), true);

} // namespace
} // namespace baton::parallel
