// SPDX-License-Identifier: Apache-2.0
// Matrix products on row-major tiles, for use inside parallel regions.
#pragma once

#include <cstdint>

namespace baton::ops::cpu {

enum class Side { kPlain, kTransposed };

/// out[m, n] = op(a)[m, k] op(b)[k, n] + (accumulate ? out : 0), all row-major with these row
/// strides. A call from inside a parallel region runs on the calling thread alone. Uses the BLAS
/// that ATen's own products use.
void product(
    Side a_side,
    Side b_side,
    std::int64_t m,
    std::int64_t n,
    std::int64_t k,
    const float* a,
    std::int64_t a_stride,
    const float* b,
    std::int64_t b_stride,
    bool accumulate,
    float* out,
    std::int64_t out_stride);
void product(
    Side a_side,
    Side b_side,
    std::int64_t m,
    std::int64_t n,
    std::int64_t k,
    const double* a,
    std::int64_t a_stride,
    const double* b,
    std::int64_t b_stride,
    bool accumulate,
    double* out,
    std::int64_t out_stride);

} // namespace baton::ops::cpu
