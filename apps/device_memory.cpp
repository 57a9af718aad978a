// SPDX-License-Identifier: Apache-2.0
#include "apps/device_memory.h"

#include <regex>

namespace baton {

std::string out_of_memory_line(const c10::OutOfMemoryError& error, const std::string& advice) {
  // The numbers are in libtorch's message alone: by now the stack has given the memory back.
  const std::string message = error.what_without_backtrace();
  const std::string size = "([0-9.]+ (?:bytes|[KMGT]iB))";
  const std::regex asked("Tried to allocate " + size);
  const std::regex room("(GPU \\d+) has a total capacity of " + size + " of which " + size + " is");
  const std::regex used("this process has " + size + " memory in use");
  std::smatch found;
  std::string line = "out of GPU memory";
  if (std::regex_search(message, found, asked)) {
    line += ": " + found.str(1) + " asked for";
  }
  if (std::regex_search(message, found, room)) {
    line += ", " + found.str(3) + " of " + found.str(2) + " free on " + found.str(1);
  }
  if (std::regex_search(message, found, used)) {
    line += ", " + found.str(1) + " in use by this process";
  }
  return line + "; " + advice;
}

} // namespace baton
