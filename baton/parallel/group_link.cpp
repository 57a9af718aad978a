// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/group_link.h"

#include <exception>
#include <utility>

#include "baton/base/log.h"

namespace baton::parallel {

class Guard::Doing : public c10d::Work {
 public:
  using c10d::Work::finish;
};

Guard::Guard(Watch& watch, std::function<std::string(const std::string&)> describe)
    : doing_(c10::make_intrusive<Doing>()) {
  watch.expect(doing_, std::move(describe));
}

Guard::~Guard() {
  doing_->finish();
}

GroupLink::GroupLink(
    std::string name,
    c10::Device device,
    c10::intrusive_ptr<c10d::Backend> backend,
    std::shared_ptr<Watch> watch)
    : name(std::move(name)), device(device), backend(std::move(backend)), watch(std::move(watch)) {}

GroupLink::~GroupLink() {
  if (device.is_cpu()) {
    return;
  }
  const std::string rank = "rank " + std::to_string(watch->rank());
  const Guard guard(*watch, [rank, name = name](const std::string& reason) {
    return rank + ": leaving the ranks along " + name + " failed: " + reason;
  });
  try {
    if (watch->stopping() || std::uncaught_exceptions() > 0) {
      backend->abort();
    } else {
      backend->shutdown();
    }
  } catch (const std::exception& error) {
    log_debug(rank + " left the ranks along " + name + " with an error: " + error.what());
  }
}

} // namespace baton::parallel
