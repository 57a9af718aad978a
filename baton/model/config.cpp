// SPDX-License-Identifier: Apache-2.0
#include "baton/model/config.h"

#include <cmath>

#include "baton/base/error.h"

namespace baton::model {

void ModelConfig::settle_dtype(c10::Device device) {
  if (dtype == "auto") {
    dtype = device.is_cpu() ? "fp32" : "bf16";
  }
  if (dtype == "fp64" && !device.is_cpu()) {
    throw Error("model.dtype is fp64, which runs on the CPU only; a GPU takes fp32 or bf16");
  }
}

at::ScalarType ModelConfig::scalar_type() const {
  if (dtype == "bf16") {
    return at::kBFloat16;
  }
  return dtype == "fp64" ? at::kDouble : at::kFloat;
}

nn::LayerConfig ModelConfig::layer_config(std::int64_t num_layers) const {
  const auto layers = static_cast<double>(num_layers);
  double output_scale = 1.0;
  if (output_start == "1/sqrt(layers)") {
    output_scale = 1.0 / std::sqrt(layers);
  } else if (output_start == "1/sqrt(2*layers)") {
    output_scale = 1.0 / std::sqrt(2.0 * layers);
  }
  return {
      .width = width,
      .dtype = scalar_type(),
      .norm_eps = norm_eps,
      .dropout = dropout,
      .residual_multiplier = residual_multiplier,
      .start_deviation = start_deviation,
      .output_start_scale = output_scale,
      .mamba = mamba,
      .attention = attention,
      .mlp = mlp};
}

} // namespace baton::model
