// SPDX-License-Identifier: Apache-2.0
#include "baton/train/model_values.h"

#include <functional>
#include <numeric>
#include <string>

#include <c10/util/Exception.h>

namespace baton::train {
namespace {

constexpr const char* kLayerPrefix = "layers.";

PartValues values_of(const nn::ParameterSpec& spec) {
  const auto count = static_cast<double>(
      std::accumulate(spec.shape.begin(), spec.shape.end(), std::int64_t{1}, std::multiplies<>()));
  PartValues values;
  if (spec.keep_fp32) {
    (spec.cut.dim >= 0 ? values.cut_fp32 : values.whole_fp32) = count;
  } else {
    (spec.cut.dim >= 0 ? values.cut : values.whole) = count;
  }
  return values;
}

} // namespace

PartValues& PartValues::operator+=(const PartValues& other) {
  cut += other.cut;
  whole += other.whole;
  cut_fp32 += other.cut_fp32;
  whole_fp32 += other.whole_fp32;
  return *this;
}

double ModelValues::total() const {
  double sum = embedding.total() + head.total();
  for (const PartValues& layer : layers) {
    sum += layer.total();
  }
  return sum;
}

ModelValues count_values(const nn::ParameterStore& parameters, std::int64_t num_layers) {
  const std::string prefix = kLayerPrefix;
  ModelValues values;
  values.layers.resize(static_cast<std::size_t>(num_layers));
  for (const nn::Parameter& parameter : parameters.parameters()) {
    const std::string& name = parameter.spec.name;
    const PartValues found = values_of(parameter.spec);
    if (name.rfind(prefix, 0) == 0) {
      const auto layer = static_cast<std::size_t>(std::stoll(name.substr(prefix.size())));
      TORCH_INTERNAL_ASSERT(layer < values.layers.size(), "a parameter of no layer: ", name);
      values.layers[layer] += found;
    } else if (name.rfind("embedding.", 0) == 0) {
      values.embedding += found;
    } else {
      values.head += found;
    }
  }
  return values;
}

} // namespace baton::train
