// SPDX-License-Identifier: Apache-2.0
// Whether rows of a tensor can be read several neighbours at a time.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace baton::ops::cuda {

/// Whether the first `pack` values of a dense tensor can be read together.
bool begins_a_pack(const at::Tensor& tensor, std::int64_t pack);

/// Whether `pack` neighbours of each row of rows_TD can be read together: rows that begin on, and
/// lie apart by, whole packs, of a whole number of packs each.
bool packs_fit(const at::Tensor& rows_TD, std::int64_t pack);

} // namespace baton::ops::cuda
