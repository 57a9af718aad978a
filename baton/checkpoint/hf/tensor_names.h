// SPDX-License-Identifier: Apache-2.0
// From the names of a model's parameters to those of a Hugging Face folder.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/checkpoint/hf/family.h"

namespace baton::checkpoint::hf {

/// Where one parameter lies.
struct TensorPlace {
  std::string ours;                  ///< "layers.3.mlp.up_proj.weight"
  std::vector<std::string> theirs{}; ///< the tensors that hold its rows, one after the other
  bool depthwise = false;            ///< theirs has a dim of size 1 between channels and taps
};

/// The place of a parameter of a model with these layers ("M-*-"). Names begin with the family's
/// root `root`. Throws `Error` for a parameter that the family has no place for.
TensorPlace place_of(
    const Family& family,
    const std::string& layers,
    const std::string& root,
    std::string_view parameter);

/// The parts of a parameter's value that `place.theirs` hold, shaped as they are: views.
std::vector<at::Tensor> parts_of(const at::Tensor& value, const TensorPlace& place);

} // namespace baton::checkpoint::hf
