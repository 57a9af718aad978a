// SPDX-License-Identifier: Apache-2.0
// The program's version, as checkpoints and `baton --version` state it.
#pragma once

namespace baton {

inline constexpr const char* kVersion = "0.1.0";

} // namespace baton
