// SPDX-License-Identifier: Apache-2.0
// How work on packs is shared among threads; the same for host and device.
#pragma once

namespace baton {

constexpr int kPacksOfThread = 2; // under way at the same time

} // namespace baton
