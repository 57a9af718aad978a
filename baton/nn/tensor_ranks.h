// SPDX-License-Identifier: Apache-2.0
// Which counts of ranks can divide a layer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace baton::nn {

/// Throws `rule` with the count asked for and the nearest one that `fits`, unless `ranks` does.
void check_tensor_ranks(
    std::int64_t ranks,
    const std::function<bool(std::int64_t)>& fits,
    const std::string& rule);

} // namespace baton::nn
