// SPDX-License-Identifier: Apache-2.0
// Nonlinearities of the MLP layers, fused with the product that gates them.
#pragma once

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// max(x, 0)^2 of any shape. So et al., "Primer", 2021.
at::Tensor squared_relu(const at::Tensor& x);

/// x [..., 2F], the gate's channels first -> silu(gate) * up [..., F]. Shazeer, "GLU variants improve
/// transformer", 2020. Throws when the last dim is odd.
at::Tensor swiglu(const at::Tensor& x);

} // namespace baton::ops
