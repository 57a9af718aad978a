// SPDX-License-Identifier: Apache-2.0
// The shared memory of a block, as the emulator has it.
#pragma once

namespace baton {

inline unsigned char* dynamic_shared() {
  return emulator::block.shared;
}

} // namespace baton
