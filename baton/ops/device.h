// SPDX-License-Identifier: Apache-2.0
// The device that a run asks for, and how the libraries below compute on it.
#pragma once

#include <string>

#include <c10/core/Device.h>

namespace baton::ops {

/// The device of a name: "cpu", "cuda" (the first GPU) or "cuda:1"; it is ready to hold tensors.
/// Throws `Error` that begins with `key`, the option or the recipe's key that the name came from:
/// for another name, and with the reason where there is no such GPU or the kernels do not run on
/// it.
c10::Device open_device(const std::string& name, const std::string& key);

/// Makes fp32 mean fp32 in libtorch's own operators: no TF32, and products of bf16 matrices add up
/// in fp32, those of a cut sum too. With `deterministic` its algorithms are those that give equal
/// bits each time. For the whole process; to be called before its first product on a GPU.
void set_arithmetic(bool deterministic);

} // namespace baton::ops
