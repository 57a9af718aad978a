// SPDX-License-Identifier: Apache-2.0
// Products of all rows with matrices of which each rank has its outputs.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/nn/linear.h"
#include "baton/parallel/group.h"

namespace baton::nn {

/// Of layers that are cut over their outputs: x W^T + bias for all rows, [num_rows, out] each, from
/// this rank's rows of x, as `parallel::even_share` divides them. Rows are gathered once for all
/// layers, and only this rank's kept for the backward pass: it gathers them again while it finds
/// the gradient of x, and scatters that while it finds those of the weights. Alone it is the layers
/// themselves.
std::vector<at::Tensor> gathered_linear(
    const at::Tensor& own_rows,
    std::int64_t num_rows,
    const std::vector<const Linear*>& layers,
    const parallel::Group& ranks);

} // namespace baton::nn
