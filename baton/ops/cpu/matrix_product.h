// SPDX-License-Identifier: Apache-2.0
// Matrix products whose bits do not depend on the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace baton::ops::cpu {

/// out_MN = a_MK b_KN, or out_MN += a_MK b_KN with `accumulate`.
///
/// The product is cut into tiles by its shape alone (and along K where M and N are small; those
/// parts are summed in order), and each tile is one BLAS call on one thread. All three have one
/// dtype, fp64, fp32 or bf16, or bf16 factors an fp32 sum; products of bf16 are added in fp32, by
/// the processor's bf16 units where it has them. `a` and `b` may be transposed views; `out` has
/// contiguous rows and must not overlap the inputs.
void matrix_product_out(
    const at::Tensor& out_MN,
    const at::Tensor& a_MK,
    const at::Tensor& b_KN,
    bool accumulate = false);

/// Whether products of bf16 have units of their own; elsewhere factors are widened to fp32 each
/// time, so that those of many products had better be fp32 from the start.
bool has_bf16_units();

/// a_MK b_KN in a new tensor.
at::Tensor matrix_product(const at::Tensor& a_MK, const at::Tensor& b_KN);

} // namespace baton::ops::cpu
