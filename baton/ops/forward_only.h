// SPDX-License-Identifier: Apache-2.0
// Autograd registration of operators that have no derivative.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace baton::ops {

/// Boxed Autograd kernel: refuses an input that requires grad while grad mode is on, instead of
/// dropping its gradient; otherwise runs the operator and counts the versions of what it writes.
void run_forward_only(
    const c10::OperatorHandle& op,
    c10::DispatchKeySet keys,
    torch::jit::Stack* stack);

} // namespace baton::ops
