// SPDX-License-Identifier: Apache-2.0
// Words between ranks.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <c10/core/Device.h>

#include "baton/parallel/group.h"

namespace baton::parallel {

/// What each rank says, in rank order. The texts travel as tensors on `device`, which is the
/// mesh's.
std::vector<std::string>
all_gather_text(const Group& group, const std::string& text, c10::Device device);

/// Does `work` on every rank and gives what each returned. Where it throws on one, all throw when
/// all are done: that rank its own exception, the others a PeerError with its message.
std::vector<std::string>
do_together(const Group& group, c10::Device device, const std::function<std::string()>& work);

} // namespace baton::parallel
