// SPDX-License-Identifier: Apache-2.0
// Tensor parallelism: between sublayers each rank keeps its own rows of the hidden states; within
// one it has all rows of its own columns.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include "baton/parallel/group.h"

namespace baton::parallel {

/// Neighbours among things that are counted.
struct Share {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// What rank `rank` gets of `count` things. Shares follow each other and differ by one at most, so
/// that nothing has to divide by `ranks`.
Share even_share(std::int64_t count, int rank, int ranks);

/// Keeps a group in what an autograd function saves, and gives it back.
c10::IValue keep_group(const Group& group);
const Group& kept_group(const c10::IValue& value);

/// This rank's share of `num_rows` rows, [R, ...] -> all of them, [num_rows, ...]. Its gradient is
/// `scatter_rows`. Alone it is the argument itself.
at::Tensor gather_rows(const at::Tensor& own_rows, std::int64_t num_rows, const Group& group);

/// What each rank adds to all rows, [T, ...] -> the sum over ranks of this rank's share, [R, ...].
/// Its gradient is `gather_rows`. Alone it is the argument itself.
at::Tensor scatter_rows(const at::Tensor& addends, const Group& group);

/// Rows on their way; what has to be done about them when they are there is done by `wait`.
class RowsInFlight {
 public:
  at::Tensor wait();

 private:
  friend RowsInFlight start_gather_rows(const at::Tensor&, std::int64_t, const Group&);
  friend RowsInFlight start_scatter_rows(const at::Tensor&, const Group&);

  RowsInFlight(Pending pending, at::Tensor received, std::optional<at::ScalarType> sum_in = {})
      : pending_(std::move(pending)), received_(std::move(received)), sum_in_(sum_in) {}

  Pending pending_;
  at::Tensor received_;                  ///< [..., R, ...], by rank where they are to be added
  std::optional<at::ScalarType> sum_in_; ///< none: nothing is to be added
};

/// `gather_rows` and `scatter_rows` for who has other work meanwhile; not differentiable, and for
/// more than one rank.
RowsInFlight
start_gather_rows(const at::Tensor& own_rows, std::int64_t num_rows, const Group& group);
RowsInFlight start_scatter_rows(const at::Tensor& addends, const Group& group);

} // namespace baton::parallel
