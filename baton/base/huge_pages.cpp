// SPDX-License-Identifier: Apache-2.0
#include "baton/base/huge_pages.h"

#include <cstdint>

#include <sys/mman.h>

namespace baton {
namespace {

constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;
// MADV_COLLAPSE of Linux 6.1, younger than this system's headers: at once, instead of by a thread
// of the kernel some time later.
constexpr int kCollapse = 25;

} // namespace

void put_on_huge_pages(const at::Tensor& tensor) {
  if (!tensor.is_cpu() || tensor.nbytes() == 0) {
    return;
  }
  const auto data = reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
  const std::uintptr_t first = data / kHugePage * kHugePage;
  const std::uintptr_t last = (data + tensor.nbytes() + kHugePage - 1) / kHugePage * kHugePage;
  // One page after another: one that reaches beyond what is mapped does not stand in others' way.
  for (std::uintptr_t page = first; page < last; page += kHugePage) {
    auto* const address = reinterpret_cast<void*>(page); // NOLINT(performance-no-int-to-ptr)
    if (madvise(address, kHugePage, MADV_HUGEPAGE) == 0) {
      madvise(address, kHugePage, kCollapse);
    }
  }
}

} // namespace baton
