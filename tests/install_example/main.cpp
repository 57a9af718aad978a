// SPDX-License-Identifier: Apache-2.0
// Uses an installed Baton: an operator through its C++ wrapper, and the pattern language.
#include <ATen/ATen.h>

#include <iostream>

#include "baton/base/error.h"
#include "baton/model/pattern.h"
#include "baton/ops/rms_norm.h"

int main() {
  const at::Tensor x_TD = at::arange(12, at::kDouble).reshape({3, 4});
  const at::Tensor y_TD = baton::ops::rms_norm(x_TD, at::ones({4}, at::kDouble), /*eps=*/0.0);
  const double mean_square = y_TD.square().mean().item<double>();
  std::cout << "mean square after rms_norm: " << mean_square << "\n";

  const baton::model::LayerPattern pattern = baton::model::parse_pattern("M*M-|M*M-");
  std::cout << "layers: " << pattern.num_layers() << "\n";

  bool refused = false;
  try {
    baton::model::parse_pattern("MXM");
  } catch (const baton::Error& error) {
    refused = true;
    std::cout << "refused: " << error.what() << "\n";
  }
  const bool right = mean_square > 1 - 1e-12 && mean_square < 1 + 1e-12 &&
                     pattern.num_layers() == 8 && refused;
  return right ? 0 : 1;
}
