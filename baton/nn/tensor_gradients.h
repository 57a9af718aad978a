// SPDX-License-Identifier: Apache-2.0
// Gradients of parameters that several ranks of tensor parallelism hold.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/nn/parameter.h"
#include "baton/parallel/bucket_plan.h"

namespace baton::nn {

/// Whether several ranks of tensor parallelism hold any of a parameter's values.
bool has_other_holders(const ParameterStore& store, const ParameterSpec& spec);

/// Adds up, in place, what the ranks of tensor parallelism found for values that several of them
/// hold: parameters that are not cut, of which each sees its own rows (norms, biases behind row
/// cuts) or its own heads (norms of queries and keys), and blocks that ranks share (B and C of a
/// group, heads of keys and values). Called by all ranks once a step, before anything is made of
/// gradients.
///
/// `gradients` has the values of each of `slices`, flat or in the parameter's shape. The ranks have
/// the same slices of the parameters that have other holders, wherever replicas have cut them. Adds
/// in fp32 (fp64) in the order of the ranks, so that the bits do not depend on those cuts; one
/// message for about 64 MiB; nothing where there is one rank.
void sum_tensor_gradients(
    const ParameterStore& store,
    const std::vector<parallel::BucketSlice>& slices,
    at::TensorList gradients);

/// The same of the whole gradients that autograd has left at the parameters; a missing one counts
/// as zeros.
void sum_tensor_gradients(const ParameterStore& store);

} // namespace baton::nn
