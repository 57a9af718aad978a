// SPDX-License-Identifier: Apache-2.0
// The kernel of attention over pages: some query rows against a range of keys.
#pragma once

#include <cstdint>

#include <c10/core/ScalarType.h>

namespace baton::ops::cpu {

/// Where the keys or the values of one sequence lie.
struct PagedRows {
  const void* data; ///< token 0 of page 0, of the first key head
  const std::int32_t* pages;
  std::int64_t page_size;
  std::int64_t page_stride; ///< in elements, as the next
  std::int64_t token_stride;
  std::int64_t head_stride;
};

/// Some query rows of each of some neighbouring key heads against a range of keys.
template <class Sum>
struct PagedTask {
  PagedRows keys;
  PagedRows values;
  std::int64_t first_key;
  std::int64_t last_key;
  std::int64_t num_heads; ///< H
  std::int64_t num_rows;  ///< R
  std::int64_t channels;  ///< P
  const Sum* q_HRP;       ///< scaled
  std::int64_t q_head_stride;
  const std::int64_t* visible_R; ///< keys that a row sees, from the sequence's first
  Sum* out_HRP;                  ///< sums of exp(score - maximum) * value
  Sum* maximum_HR;
  Sum* sum_HR;
};

/// Fills `out_HRP`, `maximum_HR` and `sum_HR`; rows that see none of the keys get 0, -infinity and
/// 0. Each key and value is read from memory once for all rows. The bits of a row depend neither on
/// the other rows nor on keys that it does not see. `pages` is the dtype of keys and values:
/// float32 or bfloat16.
void paged_attend(const PagedTask<float>& task, at::ScalarType pages);

/// The same for float64 pages.
void paged_attend(const PagedTask<double>& task, at::ScalarType pages);

} // namespace baton::ops::cpu
