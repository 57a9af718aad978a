// SPDX-License-Identifier: Apache-2.0
// The error of a rank that stops because of another.
#pragma once

#include "baton/base/error.h"

namespace baton::parallel {

/// Another rank failed, is gone or did not answer; the message says which.
class PeerError : public RunError {
 public:
  using RunError::RunError;
};

} // namespace baton::parallel
