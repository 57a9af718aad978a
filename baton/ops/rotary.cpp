// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, double, bool);

class RotaryFunction : public torch::autograd::Function<RotaryFunction> {
 public:
  static at::Tensor forward(
      AutogradContext* context,
      const at::Tensor& x_THP,
      const at::Tensor& positions_T,
      const at::Tensor& inverse_frequencies,
      double attention_factor,
      bool interleaved) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({positions_T, inverse_frequencies});
    context->saved_data["attention_factor"] = attention_factor;
    context->saved_data["interleaved"] = interleaved;
    return rotary(x_THP, positions_T, inverse_frequencies, attention_factor, interleaved);
  }

  // A rotation's transpose turns the other way.
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor dx_THP = rotary(
        gradients[0],
        saved[0],
        saved[1].neg(),
        context->saved_data["attention_factor"].toDouble(),
        context->saved_data["interleaved"].toBool());
    return {dx_THP, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor rotary_autograd(
    const at::Tensor& x_THP,
    const at::Tensor& positions_T,
    const at::Tensor& inverse_frequencies,
    double attention_factor,
    bool interleaved) {
  return RotaryFunction::apply(
      x_THP, positions_T, inverse_frequencies, attention_factor, interleaved);
}

at::Tensor
rotary_meta(const at::Tensor& x_THP, const at::Tensor&, const at::Tensor&, double, bool) {
  check_activation("x", x_THP);
  return at::empty_symint(x_THP.sym_sizes(), x_THP.options());
}

/// The pair index at which a wavelength of length / turns positions lies, as a real number.
double pair_of_turns(double turns, std::int64_t channels, const RotaryConfig& config) {
  const double length = static_cast<double>(config.original_length);
  return static_cast<double>(channels) * std::log(length / (turns * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(config.base));
}

/// Share of each pair that keeps its frequency: 1 for short wavelengths, 0 for those longer than
/// the original context, linear between.
at::Tensor yarn_kept_share(std::int64_t channels, const RotaryConfig& config) {
  constexpr double kFastTurns = 32.0;
  constexpr double kSlowTurns = 1.0;
  const auto last = static_cast<double>(channels - 1);
  const double low = std::max(std::floor(pair_of_turns(kFastTurns, channels, config)), 0.0);
  double high = std::min(std::ceil(pair_of_turns(kSlowTurns, channels, config)), last);
  if (low == high) {
    high += 0.001; // keeps the ramp's slope finite
  }
  const at::Tensor pair = at::arange(channels / 2, at::kDouble);
  return 1.0 - ((pair - low) / (high - low)).clamp(0.0, 1.0);
}

} // namespace

RotaryFrequencies rotary_frequencies(const RotaryConfig& config) {
  // The margin keeps a fraction like 2/3 of 6 channels from losing one to rounding.
  const auto turning =
      static_cast<std::int64_t>(static_cast<double>(config.head_dim) * config.fraction + 1e-6);
  const std::int64_t channels = turning / 2 * 2;
  TORCH_CHECK(
      channels >= 2,
      "rotary: at least two channels of a head must turn, got fraction ",
      config.fraction,
      " of ",
      config.head_dim);
  const at::Tensor exponent =
      at::arange(channels / 2, at::kDouble) * (2.0 / static_cast<double>(channels));
  const at::Tensor plain =
      at::pow(at::scalar_tensor(config.base, at::kDouble), exponent).reciprocal();
  RotaryFrequencies result;
  if (config.scaling == "none") {
    result.inverse_frequencies = plain;
  } else if (config.scaling == "linear") {
    result.inverse_frequencies = plain / config.factor;
  } else {
    TORCH_CHECK(
        config.scaling == "yarn",
        "rotary scaling must be none, linear or yarn, got '",
        config.scaling,
        "'");
    const at::Tensor kept = yarn_kept_share(channels, config);
    result.inverse_frequencies = plain / config.factor * (1.0 - kept) + plain * kept;
    result.attention_factor = 0.1 * std::log(config.factor) + 1.0;
  }
  result.inverse_frequencies = result.inverse_frequencies.to(at::kFloat);
  return result;
}

at::Tensor rotary(
    const at::Tensor& x_THP,
    const at::Tensor& positions_T,
    const at::Tensor& inverse_frequencies,
    double attention_factor,
    bool interleaved) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::rotary", "").typed<Signature>();
  return op.call(x_THP, positions_T, inverse_frequencies, attention_factor, interleaved);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "rotary(Tensor x, Tensor positions, Tensor inverse_frequencies, float attention_factor=1.0, "
      "bool interleaved=False) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("rotary", rotary_autograd);
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("rotary", rotary_meta);
}

} // namespace baton::ops
