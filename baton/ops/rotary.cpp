// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <tuple>
#include <utility>

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

at::Tensor rotary_meta(
    const at::Tensor& x_THP,
    const at::Tensor& positions_T,
    const at::Tensor& inverse_frequencies,
    double,
    bool) {
  check_rotary(x_THP, positions_T, inverse_frequencies);
  return at::empty_symint(x_THP.sym_sizes(), x_THP.options());
}

/// The pair index at which a wavelength of length / turns positions lies, as a real number.
double pair_of_turns(double turns, std::int64_t channels, const RotaryConfig& config) {
  const double length = static_cast<double>(config.original_length);
  return static_cast<double>(channels) * std::log(length / (turns * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(config.base));
}

/// Share of each pair that keeps its frequency: 1 for many turns over the original context, 0 for
/// few, linear in the pair's index between.
at::Tensor yarn_kept_share(std::int64_t channels, const RotaryConfig& config) {
  double low = pair_of_turns(config.beta_fast, channels, config);
  double high = pair_of_turns(config.beta_slow, channels, config);
  if (config.whole_pairs) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(channels - 1));
  if (low == high) {
    high += 0.001; // keeps the ramp's slope finite
  }
  const at::Tensor pair = at::arange(channels / 2, at::kDouble);
  return 1.0 - ((pair - low) / (high - low)).clamp(0.0, 1.0);
}

double yarn_attention_factor(const RotaryConfig& config) {
  const auto magnitude = [&](double scale) {
    return config.factor <= 1.0 ? 1.0 : 0.1 * scale * std::log(config.factor) + 1.0;
  };
  if (config.attention_factor) {
    return *config.attention_factor;
  }
  if (config.mscale != 0.0 && config.mscale_all_dim != 0.0) {
    return magnitude(config.mscale) / magnitude(config.mscale_all_dim);
  }
  return magnitude(1.0);
}

void check_config(const RotaryConfig& config, std::int64_t channels) {
  TORCH_CHECK(
      channels >= 2 && channels <= config.head_dim,
      "rotary: at least two channels of a head must turn and at most all, got fraction ",
      config.fraction,
      " of ",
      config.head_dim);
  TORCH_CHECK(config.base > 1.0, "rotary base must be above 1, got ", config.base);
  TORCH_CHECK(config.factor > 0.0, "rotary factor must be positive, got ", config.factor);
  TORCH_CHECK(
      config.scaling == "none" || config.scaling == "linear" || config.scaling == "yarn",
      "rotary scaling must be none, linear or yarn, got '",
      config.scaling,
      "'");
  TORCH_CHECK(
      config.original_length > 0 && config.beta_slow > 0.0 && config.beta_fast >= config.beta_slow,
      "yarn needs a positive original length and 0 < beta_slow <= beta_fast, got ",
      config.original_length,
      ", ",
      config.beta_slow,
      ", ",
      config.beta_fast);
}

std::tuple<at::Tensor, double> rotary_frequencies_op(
    std::int64_t head_dim,
    double base,
    double fraction,
    c10::string_view scaling,
    double factor,
    std::int64_t original_length,
    double beta_fast,
    double beta_slow,
    bool whole_pairs,
    double mscale,
    double mscale_all_dim,
    std::optional<double> attention_factor) {
  RotaryFrequencies found = rotary_frequencies(
      {.head_dim = head_dim,
       .base = base,
       .fraction = fraction,
       .scaling = std::string(scaling),
       .factor = factor,
       .original_length = original_length,
       .beta_fast = beta_fast,
       .beta_slow = beta_slow,
       .whole_pairs = whole_pairs,
       .mscale = mscale,
       .mscale_all_dim = mscale_all_dim,
       .attention_factor = attention_factor});
  return {std::move(found.inverse_frequencies), found.attention_factor};
}

} // namespace

RotaryFrequencies rotary_frequencies(const RotaryConfig& config) {
  // The margin keeps a fraction like 2/3 of 6 channels from losing one to rounding.
  const auto turning =
      static_cast<std::int64_t>(static_cast<double>(config.head_dim) * config.fraction + 1e-6);
  const std::int64_t channels = turning / 2 * 2;
  check_config(config, channels);
  const at::Tensor exponent =
      at::arange(channels / 2, at::kDouble) * (2.0 / static_cast<double>(channels));
  const at::Tensor plain =
      at::pow(at::scalar_tensor(config.base, at::kDouble), exponent).reciprocal();
  RotaryFrequencies result{.inverse_frequencies = plain};
  if (config.scaling == "linear") {
    result.inverse_frequencies = plain / config.factor;
  } else if (config.scaling == "yarn") {
    const at::Tensor kept = yarn_kept_share(channels, config);
    result.inverse_frequencies = plain / config.factor * (1.0 - kept) + plain * kept;
    result.attention_factor = yarn_attention_factor(config);
  }
  result.inverse_frequencies = result.inverse_frequencies.to(at::kFloat);
  return result;
}

void check_rotary(
    const at::Tensor& x_THP,
    const at::Tensor& positions_T,
    const at::Tensor& inverse_frequencies) {
  check_activation("x", x_THP);
  TORCH_CHECK(x_THP.dim() == 3, "x must be [T, H, P], got ", x_THP.sym_sizes());
  TORCH_CHECK(
      positions_T.dim() == 1 && positions_T.scalar_type() == at::kLong &&
          positions_T.sym_size(0) == x_THP.sym_size(0),
      "positions must be int64 [T]: ",
      positions_T.scalar_type(),
      " ",
      positions_T.sym_sizes(),
      " vs T = ",
      x_THP.sym_size(0));
  TORCH_CHECK(
      inverse_frequencies.dim() == 1 && inverse_frequencies.is_floating_point() &&
          inverse_frequencies.sym_size(0) * 2 <= x_THP.sym_size(2),
      "frequencies must be a vector, two channels of a head for each: ",
      inverse_frequencies.sym_sizes(),
      " vs ",
      x_THP.sym_size(2));
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
      "rotary_frequencies(int head_dim, float base=10000.0, float fraction=1.0, "
      "str scaling='none', float factor=1.0, int original_length=4096, float beta_fast=32.0, "
      "float beta_slow=1.0, bool whole_pairs=True, float mscale=0.0, float mscale_all_dim=0.0, "
      "float? attention_factor=None) -> (Tensor, float)",
      rotary_frequencies_op);
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
