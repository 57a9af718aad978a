// SPDX-License-Identifier: Apache-2.0
// Cross entropy on the CPU: a block of logits at a time, turned into its own gradient in place.
#include "baton/ops/cpu/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/cross_entropy.cpp"

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <hwy/foreach_target.h>
#include <torch/library.h>
// foreach_target.h comes first.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "baton/ops/cpu/each_item.h"
#include "baton/ops/cpu/matrix_product.h"
#include "baton/ops/cross_entropy.h"

HWY_BEFORE_NAMESPACE();
namespace baton::ops::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// log sum exp of scale * logits. With `keep_exponentials` logits become exp(scale * logit -
/// maximum) and `sum` their sum.
template <class T>
T log_sum_exp_row(T* logits, std::int64_t count, T scale, bool keep_exponentials, T& sum) {
  const hn::ScalableTag<T> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t whole = count / lanes * lanes;
  const auto scales = hn::Set(d, scale);
  T maximum = -std::numeric_limits<T>::infinity();
  auto maxima = hn::Set(d, maximum);
  for (std::int64_t i = 0; i < whole; i += lanes) {
    maxima = hn::Max(maxima, hn::Mul(scales, hn::LoadU(d, logits + i)));
  }
  maximum = hn::GetLane(hn::MaxOfLanes(d, maxima));
  for (std::int64_t i = whole; i < count; ++i) {
    maximum = std::max(maximum, scale * logits[i]);
  }
  const auto shift = hn::Set(d, maximum);
  auto sums = hn::Zero(d);
  for (std::int64_t i = 0; i < whole; i += lanes) {
    const auto power = hn::Exp(d, hn::Sub(hn::Mul(scales, hn::LoadU(d, logits + i)), shift));
    sums = hn::Add(sums, power);
    if (keep_exponentials) {
      hn::StoreU(power, d, logits + i);
    }
  }
  sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (std::int64_t i = whole; i < count; ++i) {
    const T power = std::exp(scale * logits[i] - maximum);
    sum += power;
    if (keep_exponentials) {
      logits[i] = power;
    }
  }
  return maximum + std::log(sum);
}

template <class T>
void scale_row(T* row, std::int64_t count, T factor) {
  const hn::ScalableTag<T> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto factors = hn::Set(d, factor);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, row + i), factors), d, row + i);
  }
  for (; i < count; ++i) {
    row[i] *= factor;
  }
}

float log_sum_exp_float(float* logits, std::int64_t count, float scale, bool keep, float& sum) {
  return log_sum_exp_row(logits, count, scale, keep, sum);
}
double
log_sum_exp_double(double* logits, std::int64_t count, double scale, bool keep, double& sum) {
  return log_sum_exp_row(logits, count, scale, keep, sum);
}
void scale_float(float* row, std::int64_t count, float factor) {
  scale_row(row, count, factor);
}
void scale_double(double* row, std::int64_t count, double factor) {
  scale_row(row, count, factor);
}

} // namespace baton::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops::cpu {
namespace {

HWY_EXPORT(log_sum_exp_float);
HWY_EXPORT(log_sum_exp_double);
HWY_EXPORT(scale_float);
HWY_EXPORT(scale_double);

float log_sum_exp(float* logits, std::int64_t count, float scale, bool keep, float& sum) {
  return HWY_DYNAMIC_DISPATCH(log_sum_exp_float)(logits, count, scale, keep, sum);
}
double log_sum_exp(double* logits, std::int64_t count, double scale, bool keep, double& sum) {
  return HWY_DYNAMIC_DISPATCH(log_sum_exp_double)(logits, count, scale, keep, sum);
}
void scale_by(float* row, std::int64_t count, float factor) {
  HWY_DYNAMIC_DISPATCH(scale_float)(row, count, factor);
}
void scale_by(double* row, std::int64_t count, double factor) {
  HWY_DYNAMIC_DISPATCH(scale_double)(row, count, factor);
}

/// What the tokens of a row block need beside their logits.
template <class T>
struct TokenInputs {
  const std::int64_t* labels;
  const T* mask; ///< null: all ones
  T scale;
};

/// Negative log likelihoods of a block. With `gradients`, logits become the gradient of the masked
/// sum.
template <class T>
void finish_block(
    const at::Tensor& logits_RV,
    std::int64_t first,
    const TokenInputs<T>& tokens,
    bool gradients,
    T* nll_T) {
  const std::int64_t vocabulary = logits_RV.size(1);
  T* logits = logits_RV.mutable_data_ptr<T>();
  for_each_item(logits_RV.size(0), [&](std::int64_t row) {
    T* row_V = logits + row * vocabulary;
    const std::int64_t label = tokens.labels[first + row];
    if (label == kIgnoredLabel) {
      nll_T[first + row] = 0;
      if (gradients) {
        std::fill(row_V, row_V + vocabulary, T(0));
      }
      return;
    }
    const T target = tokens.scale * row_V[label];
    T sum = 0;
    nll_T[first + row] = log_sum_exp(row_V, vocabulary, tokens.scale, gradients, sum) - target;
    if (gradients) {
      const T weight = tokens.scale * (tokens.mask == nullptr ? T(1) : tokens.mask[first + row]);
      if (weight == 0) {
        std::fill(row_V, row_V + vocabulary, T(0)); // also where an exponential overflowed
      } else {
        scale_by(row_V, vocabulary, weight / sum);
        row_V[label] -= weight;
      }
    }
  });
}

/// Sums mask * nll in fp64, from first to last.
template <class T>
T masked_sum(const at::Tensor& nll_T, const T* mask) {
  const T* nll = nll_T.const_data_ptr<T>();
  double sum = 0;
  for (std::int64_t t = 0; t < nll_T.size(0); ++t) {
    const double weight = mask == nullptr ? 1.0 : static_cast<double>(mask[t]);
    if (weight != 0) {
      sum += static_cast<double>(nll[t]) * weight;
    }
  }
  return static_cast<T>(sum);
}

void check_labels(const at::Tensor& labels_T, std::int64_t vocabulary) {
  const std::int64_t* labels = labels_T.const_data_ptr<std::int64_t>();
  for (std::int64_t t = 0; t < labels_T.size(0); ++t) {
    TORCH_CHECK(
        labels[t] == kIgnoredLabel || (labels[t] >= 0 && labels[t] < vocabulary),
        "labels must be ",
        kIgnoredLabel,
        " or in [0, ",
        vocabulary,
        "), got ",
        labels[t],
        " at token ",
        t);
  }
}

using Results = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

/// The dtype of the factors of products: bf16 stays where products of it are quick, so that logits
/// are exact sums of products, and their gradient is rounded before it is a factor, as on a GPU.
template <class T>
at::ScalarType factor_dtype(const at::Tensor& hidden_TD) {
  const bool narrow = hidden_TD.scalar_type() == at::kBFloat16 && has_bf16_units();
  return narrow ? at::kBFloat16 : c10::CppTypeToScalarType<T>::value;
}

/// Loss and, where asked, gradients in the dtype of the sums or the factors. T is float or double,
/// of the sums.
template <class T>
Results run(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T,
    double logit_scale,
    std::int64_t block_tokens,
    bool gradients) {
  const std::int64_t num_tokens = hidden_TD.size(0);
  const std::int64_t vocabulary = weight_VD.size(0);
  const at::TensorOptions options = hidden_TD.options().dtype(c10::CppTypeToScalarType<T>::value);
  const at::ScalarType factors = factor_dtype<T>(hidden_TD);
  const at::Tensor weight = weight_VD.to(factors);
  const at::Tensor labels = labels_T.contiguous();
  check_labels(labels, vocabulary);
  const at::Tensor mask = mask_T ? mask_T->to(options.dtype()).contiguous() : at::Tensor();
  const TokenInputs<T> tokens{
      labels.const_data_ptr<std::int64_t>(),
      mask.defined() ? mask.const_data_ptr<T>() : nullptr,
      static_cast<T>(logit_scale)};
  at::Tensor nll_T = at::empty({num_tokens}, options);
  const std::int64_t block = std::min(num_tokens, cross_entropy_block(block_tokens, vocabulary));
  at::Tensor dhidden_TD;
  at::Tensor dweight_VD;
  if (gradients) {
    dhidden_TD = at::empty(hidden_TD.sizes(), options.dtype(factors));
    // Several blocks add up in the dtype of the sums.
    dweight_VD =
        at::zeros(weight_VD.sizes(), block < num_tokens ? options : options.dtype(factors));
  }
  const at::Tensor buffer_RV = at::empty({block, vocabulary}, options);
  for (std::int64_t first = 0; first < num_tokens; first += block) {
    const std::int64_t rows = std::min(block, num_tokens - first);
    const at::Tensor hidden_RD = hidden_TD.narrow(0, first, rows).to(factors);
    const at::Tensor logits_RV = buffer_RV.narrow(0, 0, rows);
    matrix_product_out(logits_RV, hidden_RD, weight.t());
    finish_block<T>(logits_RV, first, tokens, gradients, nll_T.mutable_data_ptr<T>());
    if (gradients) {
      const at::Tensor dlogits_RV = logits_RV.to(factors);
      matrix_product_out(dhidden_TD.narrow(0, first, rows), dlogits_RV, weight);
      matrix_product_out(dweight_VD, dlogits_RV.t(), hidden_RD, /*accumulate=*/first > 0);
    }
  }
  at::Tensor loss_sum = at::full({}, masked_sum<T>(nll_T, tokens.mask), options);
  return {loss_sum, nll_T, dhidden_TD, dweight_VD};
}

Results run_any(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T,
    double logit_scale,
    std::int64_t block_tokens,
    bool gradients) {
  check_cross_entropy(hidden_TD, weight_VD, labels_T, mask_T, block_tokens);
  const bool wide = hidden_TD.scalar_type() == at::kDouble;
  return (
      wide
          ? &run<double>
          : &run<
                float>)(hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens, gradients);
}

std::tuple<at::Tensor, at::Tensor> cross_entropy(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T,
    double logit_scale,
    std::int64_t block_tokens) {
  auto [loss_sum, nll_T, dhidden_TD, dweight_VD] =
      run_any(hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens, false);
  return {loss_sum, nll_T};
}

Results cross_entropy_with_grads(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T,
    double logit_scale,
    std::int64_t block_tokens) {
  auto [loss_sum, nll_T, dhidden_TD, dweight_VD] =
      run_any(hidden_TD, weight_VD, labels_T, mask_T, logit_scale, block_tokens, true);
  return {
      loss_sum,
      nll_T,
      dhidden_TD.to(hidden_TD.scalar_type()),
      dweight_VD.to(weight_VD.scalar_type())};
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("cross_entropy", &cross_entropy);
  library.impl("cross_entropy_with_grads", &cross_entropy_with_grads);
}

} // namespace baton::ops::cpu
#endif
