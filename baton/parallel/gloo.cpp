// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <utility>
#include <vector>

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "baton/base/env.h"
#include "baton/parallel/backend.h"

namespace baton::parallel {
namespace {

// Destroying a unique_ptr to what is only named needs its definition; torch's own code does that.
std::shared_ptr<gloo::transport::Device> open_interface() {
  const std::optional<std::string> name = read_env(kEnvGlooInterface);
  return name ? c10d::ProcessGroupGloo::createDeviceForInterface(*name)
              : c10d::ProcessGroupGloo::createDefaultDevice();
}

} // namespace

c10::intrusive_ptr<c10d::Backend> make_gloo_backend(const BackendRequest& request) {
  auto options = c10d::ProcessGroupGloo::Options::create(request.timeout);
  options->group_name = request.name;
  options->devices.push_back(open_interface());
  return c10::make_intrusive<c10d::ProcessGroupGloo>(
      request.store, request.rank, request.size, std::move(options));
}

} // namespace baton::parallel
