// SPDX-License-Identifier: Apache-2.0
// Gradients of parameters that several ranks of tensor parallelism hold.
#pragma once

#include <ATen/core/Tensor.h>

#include "baton/nn/parameter.h"

namespace baton::nn {

/// Adds up, in place, what the ranks of tensor parallelism found for values that several of them
/// hold: parameters that are not cut, of which each sees its own rows (norms, biases behind row
/// cuts) or its own heads (norms of queries and keys), and blocks that ranks share (B and C of a
/// group, heads of keys and values). Called by all ranks once a step, on whole gradients, before
/// anything is made of them. `gradients` holds one for each parameter in their order, with the
/// shape of its value. Adds in fp32 (fp64), one message for about 64 MiB; nothing where there is
/// one rank.
void sum_tensor_gradients(const ParameterStore& store, at::TensorList gradients);

/// The same of the gradients that autograd has left at the parameters; a missing one counts as
/// zeros.
void sum_tensor_gradients(const ParameterStore& store);

} // namespace baton::nn
