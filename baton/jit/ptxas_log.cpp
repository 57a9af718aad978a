// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/ptxas_log.h"

#include <charconv>

namespace baton::jit {
namespace {

constexpr std::string_view kEntry = "Compiling entry function '";
constexpr std::string_view kDigits = "0123456789";

// The number that stands before `words` in a line; 0 where the line does not hold them.
int number_before(std::string_view line, std::string_view words) {
  const std::size_t at = line.find(words);
  if (at == std::string_view::npos) {
    return 0;
  }
  const std::string_view before = line.substr(0, at);
  const std::size_t other = before.find_last_not_of(kDigits);
  const std::string_view digits = before.substr(other == std::string_view::npos ? 0 : other + 1);
  int number = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return number;
}

void read_line(std::string_view line, std::vector<KernelResources>& kernels) {
  if (const std::size_t at = line.find(kEntry); at != std::string_view::npos) {
    const std::string_view rest = line.substr(at + kEntry.size());
    kernels.emplace_back().symbol = rest.substr(0, rest.find('\''));
  } else if (kernels.empty()) {
    return;
  } else if (line.find(" bytes stack frame") != std::string_view::npos) {
    kernels.back().stack_bytes = number_before(line, " bytes stack frame");
    kernels.back().spill_bytes =
        number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
  } else if (line.find(": Used ") != std::string_view::npos) {
    kernels.back().registers = number_before(line, " registers");
    kernels.back().shared_bytes = number_before(line, " bytes smem");
  }
}

} // namespace

std::vector<KernelResources> parse_ptxas_log(std::string_view log) {
  std::vector<KernelResources> kernels;
  while (!log.empty()) {
    const std::size_t end = log.find('\n');
    read_line(log.substr(0, end), kernels);
    log.remove_prefix(end == std::string_view::npos ? log.size() : end + 1);
  }
  return kernels;
}

} // namespace baton::jit
