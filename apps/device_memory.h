// SPDX-License-Identifier: Apache-2.0
// What a GPU that is out of memory is reported as.
#pragma once

#include <string>

#include <c10/util/Exception.h>

#include "baton/base/error.h"

namespace baton {

/// One line: what was asked for, what is free and in use, and `advice`.
std::string out_of_memory_line(const c10::OutOfMemoryError& error, const std::string& advice);

/// The result of `work`. A GPU that is out of memory becomes a `RunError` of that line.
template <class Work>
auto explaining_memory(const Work& work, const std::string& advice) {
  try {
    return work();
  } catch (const c10::OutOfMemoryError& error) {
    throw RunError(out_of_memory_line(error, advice));
  }
}

} // namespace baton
