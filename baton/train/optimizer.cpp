// SPDX-License-Identifier: Apache-2.0
#include "baton/train/optimizer.h"

#include <cmath>
#include <numeric>
#include <set>
#include <tuple>
#include <unordered_map>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "baton/base/error.h"
#include "baton/ops/adamw.h"
#include "baton/ops/sum_squares.h"

namespace baton::train {
namespace {

std::string describe_bad_values(const std::string& name, const at::Tensor& gradient) {
  const std::int64_t nans = gradient.isnan().sum().item<std::int64_t>();
  const std::int64_t infinities = gradient.isinf().sum().item<std::int64_t>();
  return "the gradient of '" + name + "' is not finite: " + std::to_string(nans) + " NaN and " +
         std::to_string(infinities) + " infinite of " + std::to_string(gradient.numel()) +
         " values";
}

void check_config(const OptimizerConfig& config) {
  TORCH_CHECK(config.beta1 >= 0.0 && config.beta1 < 1.0, "beta1 must be in [0, 1): ", config.beta1);
  TORCH_CHECK(config.beta2 >= 0.0 && config.beta2 < 1.0, "beta2 must be in [0, 1): ", config.beta2);
  TORCH_CHECK(config.eps >= 0.0, "eps must not be negative: ", config.eps);
  TORCH_CHECK(
      config.weight_decay >= 0.0, "weight_decay must not be negative: ", config.weight_decay);
  TORCH_CHECK(config.clip_norm >= 0.0, "clip_norm must not be negative: ", config.clip_norm);
}

/// The sum of fp64 values on the CPU in their order.
double sum_in_order(const at::Tensor& values) {
  const double* data = values.const_data_ptr<double>();
  return std::accumulate(data, data + values.numel(), 0.0);
}

double parameter_norm(const nn::ParameterStore& parameters) {
  std::vector<at::Tensor> values;
  for (const nn::Parameter& parameter : parameters.parameters()) {
    values.push_back(parameter.value);
  }
  return std::sqrt(sum_in_order(squares_of(values).cpu()));
}

std::int64_t count_zeros(at::TensorList gradients) {
  std::vector<at::Tensor> counts;
  std::int64_t values = 0;
  for (const at::Tensor& gradient : gradients) {
    counts.push_back(at::count_nonzero(gradient));
    values += gradient.numel();
  }
  return values - at::stack(counts).sum().item<std::int64_t>();
}

} // namespace

std::vector<at::Tensor> gradients(const nn::ParameterStore& parameters) {
  std::vector<at::Tensor> all;
  all.reserve(parameters.parameters().size());
  for (const nn::Parameter& parameter : parameters.parameters()) {
    const at::Tensor& gradient = parameter.value.grad();
    TORCH_CHECK(
        gradient.defined(),
        "parameter '",
        parameter.spec.name,
        "' has no gradient: the loss does not depend on it, or no backward pass ran");
    all.push_back(gradient);
  }
  return all;
}

at::Tensor squares_of(at::TensorList gradients) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> squares;
  squares.reserve(gradients.size());
  for (const at::Tensor& gradient : gradients) {
    squares.push_back(ops::sum_squares(gradient));
  }
  return squares.empty() ? at::empty({0}, at::kDouble) : at::stack(squares);
}

void clear_gradients(const nn::ParameterStore& parameters) {
  for (const nn::Parameter& parameter : parameters.parameters()) {
    parameter.value.mutable_grad() = at::Tensor();
  }
}

AdamW::AdamW(const nn::ParameterStore& parameters, OptimizerConfig config)
    : parameters_(parameters), config_(config) {
  check_config(config_);
  slots_.reserve(parameters.parameters().size());
  for (const nn::Parameter& parameter : parameters.parameters()) {
    const at::Tensor value = parameter.value.detach();
    const at::ScalarType kept = value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const bool has_master = config_.master_weights && value.scalar_type() == at::kBFloat16;
    slots_.push_back(
        {.exp_avg = at::zeros_like(value, kept),
         .exp_avg_sq = at::zeros_like(value, kept),
         .master = has_master ? value.to(kept) : at::Tensor()});
  }
}

double AdamW::checked_norm(at::TensorList gradients, const at::Tensor& squares) const {
  const double* data = squares.const_data_ptr<double>();
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (!std::isfinite(data[i])) {
      throw RunError(describe_bad_values(parameters_.parameters()[i].spec.name, gradients[i]));
    }
  }
  return std::sqrt(sum_in_order(squares));
}

StepReport AdamW::step(const StepRequest& request, at::TensorList gradients) {
  return step(request, gradients, squares_of(gradients).cpu());
}

StepReport
AdamW::step(const StepRequest& request, at::TensorList gradients, const at::Tensor& squares) {
  const auto count = static_cast<std::int64_t>(slots_.size());
  TORCH_CHECK(
      static_cast<std::int64_t>(gradients.size()) == count && squares.numel() == count,
      "the optimizer wants one gradient per parameter: ",
      gradients.size(),
      " vs ",
      count);
  const at::NoGradGuard no_grad;
  StepReport report;
  report.grad_norm = checked_norm(gradients, squares) * request.grad_scale;
  if (config_.clip_norm > 0.0 && report.grad_norm > config_.clip_norm) {
    report.clip_scale = config_.clip_norm / report.grad_norm;
  }
  if (request.count_zero_gradients) {
    report.zero_gradients = count_zeros(gradients);
  }
  ops::AdamwStep update{
      .lr = request.lr,
      .beta1 = config_.beta1,
      .beta2 = config_.beta2,
      .eps = config_.eps,
      .weight_decay = 0.0,
      .step = num_steps_ + 1,
      .grad_scale = request.grad_scale * report.clip_scale};
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const nn::Parameter& parameter = parameters_.parameters()[i];
    const Slot& slot = slots_[i];
    ops::AdamwMoments moments{slot.exp_avg, slot.exp_avg_sq, std::nullopt};
    if (slot.master.defined()) {
      moments.master = slot.master;
    }
    update.weight_decay = parameter.spec.weight_decay ? config_.weight_decay : 0.0;
    ops::adamw_(parameter.value, gradients[i], moments, update);
  }
  ++num_steps_;
  if (request.parameter_norm) {
    report.parameter_norm = parameter_norm(parameters_);
  }
  return report;
}

void AdamW::load_kernels() const {
  const at::NoGradGuard no_grad;
  // Which kernel an update takes follows from dtypes and from whether packs of values fit.
  constexpr std::int64_t kWidestPack = 16;
  std::set<std::tuple<at::ScalarType, bool, bool>> kinds;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const at::Tensor value = parameters_.parameters()[i].value.detach();
    const bool packs = value.numel() % kWidestPack == 0;
    if (!kinds.emplace(value.scalar_type(), slots_[i].master.defined(), packs).second) {
      continue;
    }
    const std::int64_t few = packs ? kWidestPack : value.numel() % kWidestPack;
    const auto copy = [&](const at::Tensor& tensor) {
      return tensor.flatten().narrow(0, 0, few).clone();
    };
    ops::AdamwMoments moments{copy(slots_[i].exp_avg), copy(slots_[i].exp_avg_sq), std::nullopt};
    if (slots_[i].master.defined()) {
      moments.master = copy(slots_[i].master);
    }
    const at::Tensor parameter = copy(value);
    ops::adamw_(parameter, at::zeros_like(parameter), moments, {.step = 1});
  }
}

NamedTensors AdamW::state() const {
  NamedTensors all;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const std::string& name = parameters_.parameters()[i].spec.name;
    all.emplace_back(name + ".exp_avg", slots_[i].exp_avg);
    all.emplace_back(name + ".exp_avg_sq", slots_[i].exp_avg_sq);
    if (slots_[i].master.defined()) {
      all.emplace_back(name + ".master", slots_[i].master);
    }
  }
  return all;
}

void AdamW::load(const NamedTensors& state, std::int64_t num_steps) {
  TORCH_CHECK(num_steps >= 0, "the number of optimizer steps must not be negative: ", num_steps);
  std::unordered_map<std::string, at::Tensor> saved(state.begin(), state.end());
  const NamedTensors own = this->state();
  for (const auto& [name, tensor] : own) {
    const auto found = saved.find(name);
    TORCH_CHECK(found != saved.end(), "the saved optimizer state lacks '", name, "'");
    const at::Tensor& value = found->second;
    TORCH_CHECK(
        value.sizes() == tensor.sizes() && value.scalar_type() == tensor.scalar_type(),
        "the saved optimizer state's '",
        name,
        "' is ",
        value.scalar_type(),
        " ",
        value.sizes(),
        ", expected ",
        tensor.scalar_type(),
        " ",
        tensor.sizes());
  }
  if (saved.size() != own.size()) {
    for (const auto& [name, tensor] : own) {
      saved.erase(name);
    }
    TORCH_CHECK(
        false, "the saved optimizer state holds '", saved.begin()->first, "', which is unknown");
  }
  for (const auto& [name, tensor] : own) {
    tensor.copy_(saved.at(name));
  }
  num_steps_ = num_steps;
}

} // namespace baton::train
