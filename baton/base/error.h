// SPDX-License-Identifier: Apache-2.0
// The exceptions of code that does without libtorch.
#pragma once

#include <stdexcept>

namespace baton {

/// A caller or a file got something wrong; the message is one line that names what, and the rule.
/// The program prints it after "error: " and exits 2.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A run that failed though its input was right: a full disk, a device that went away. The program
/// exits 1.
class RunError : public Error {
 public:
  using Error::Error;
};

} // namespace baton
