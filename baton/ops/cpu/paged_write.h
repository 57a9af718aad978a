// SPDX-License-Identifier: Apache-2.0
// Where the keys and values of a token lie within their page.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace baton::ops::cpu {

/// Whether a token's values [..., Hk, P] lie side by side, those of pages or of a packed stream.
bool has_dense_tokens(const at::Tensor& tokens);

/// The values of token `offset` of a page of pages [pages, page_size, Hk, P].
char* token_in_page(const at::Tensor& pages, std::int64_t page, std::int64_t offset);

} // namespace baton::ops::cpu
