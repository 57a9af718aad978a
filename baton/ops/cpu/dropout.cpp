// SPDX-License-Identifier: Apache-2.0
// CPU kernel of dropout.
#include "baton/ops/dropout.h"

#include <cstdint>

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

at::Tensor dropout_cpu(
    const at::Tensor& x_TD,
    std::int64_t key,
    std::int64_t first_row,
    double p) {
  check_activation("x", x_TD);
  TORCH_CHECK(x_TD.dim() == 2, "x must be [T, D], got ", x_TD.sizes());
  TORCH_CHECK(p >= 0.0 && p < 1.0, "p must lie in [0, 1), got ", p);
  TORCH_CHECK(first_row >= 0, "first_row must not be negative: ", first_row);
  const at::Tensor rows = as_rows(x_TD);
  at::Tensor y_TD = at::empty(x_TD.sizes(), x_TD.options());
  const std::int64_t channels = rows.size(1);
  const std::int64_t stride = rows.stride(0);
  const RandomKey random_key(static_cast<std::uint64_t>(key));
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x_TD.scalar_type(), "dropout", [&] {
    const auto* x = rows.const_data_ptr<scalar_t>();
    auto* y = y_TD.mutable_data_ptr<scalar_t>();
    using Value = at::opmath_type<scalar_t>;
    const auto scale = static_cast<Value>(1.0 / (1.0 - p));
    at::parallel_for(0, rows.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t c = 0; c < channels; ++c) {
          const auto place = static_cast<std::uint64_t>((first_row + t) * channels + c);
          const bool kept = uniform_at(random_key, place) >= p;
          const auto value = static_cast<Value>(x[t * stride + c]);
          y[t * channels + c] = kept ? static_cast<scalar_t>(value * scale) : scalar_t(0);
        }
      }
    });
  });
  return y_TD;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("dropout", dropout_cpu);
}

} // namespace baton::ops
