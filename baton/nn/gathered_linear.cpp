// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/gathered_linear.h"

#include <optional>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "baton/ops/linear.h"
#include "baton/parallel/tensor_rows.h"

namespace baton::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct GatheredLinear : torch::autograd::Function<GatheredLinear> {
  /// `parameters`: the weights, then the biases of the layers, all of which have one, or none.
  static variable_list forward(
      AutogradContext* saved,
      const at::Tensor& own_rows,
      at::TensorList parameters,
      std::int64_t num_rows,
      std::int64_t layers,
      const parallel::Group& ranks) {
    const at::Tensor all = parallel::start_gather_rows(own_rows, num_rows, ranks).wait();
    const auto count = static_cast<std::size_t>(layers);
    variable_list outputs;
    for (std::size_t i = 0; i < count; ++i) {
      outputs.push_back(ops::linear(
          all,
          parameters[i],
          parameters.size() > count ? std::make_optional(parameters[count + i]) : std::nullopt));
    }
    variable_list kept{own_rows};
    kept.insert(kept.end(), parameters.begin(), parameters.begin() + layers);
    saved->save_for_backward(kept);
    saved->saved_data["num_rows"] = num_rows;
    saved->saved_data["has_bias"] = parameters.size() > count;
    saved->saved_data["ranks"] = parallel::keep_group(ranks);
    return outputs;
  }

  static variable_list backward(AutogradContext* saved, variable_list gradients) {
    const variable_list kept = saved->get_saved_variables();
    const parallel::Group& ranks = parallel::kept_group(saved->saved_data["ranks"]);
    parallel::RowsInFlight rows =
        parallel::start_gather_rows(kept[0], saved->saved_data["num_rows"].toInt(), ranks);
    at::Tensor dx;
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      const at::Tensor added = ops::linear(gradients[i], kept[i + 1].t());
      dx = dx.defined() ? dx.add_(added) : added;
    }
    parallel::RowsInFlight own_dx = parallel::start_scatter_rows(dx, ranks);
    const at::Tensor x = rows.wait();
    variable_list found(1);
    for (const at::Tensor& dy : gradients) {
      found.push_back(ops::linear(dy.t(), x.t()));
    }
    if (saved->saved_data["has_bias"].toBool()) {
      for (const at::Tensor& dy : gradients) {
        found.push_back(ops::linear(at::ones({1, dy.size(0)}, dy.options()), dy.t()).squeeze(0));
      }
    }
    found[0] = own_dx.wait();
    found.resize(found.size() + 3);
    return found;
  }
};

} // namespace

std::vector<at::Tensor> gathered_linear(
    const at::Tensor& own_rows,
    std::int64_t num_rows,
    const std::vector<const Linear*>& layers,
    const parallel::Group& ranks) {
  std::vector<at::Tensor> outputs;
  if (ranks.alone()) {
    for (const Linear* layer : layers) {
      outputs.push_back((*layer)(own_rows));
    }
    return outputs;
  }
  variable_list parameters;
  parameters.reserve(2 * layers.size());
  for (const Linear* layer : layers) {
    parameters.push_back(layer->weight());
  }
  for (const Linear* layer : layers) {
    if (layer->bias() != nullptr) {
      parameters.push_back(layer->bias()->value);
    }
  }
  TORCH_INTERNAL_ASSERT(
      parameters.size() == layers.size() || parameters.size() == 2 * layers.size(),
      "layers that share their rows must all have a bias or none");
  return GatheredLinear::apply(
      own_rows,
      at::TensorList(parameters),
      num_rows,
      static_cast<std::int64_t>(layers.size()),
      ranks);
}

} // namespace baton::nn
