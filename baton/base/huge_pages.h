// SPDX-License-Identifier: Apache-2.0
// Memory in pages of 2 MB, which a processor reads faster than in those of 4 KB.
#pragma once

#include <ATen/core/Tensor.h>

namespace baton {

/// Moves what a CPU tensor's storage holds to huge pages, with what else lies on them. Does nothing
/// for other devices, and where the kernel has no huge pages to give.
void put_on_huge_pages(const at::Tensor& tensor);

} // namespace baton
