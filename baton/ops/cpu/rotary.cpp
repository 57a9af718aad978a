// SPDX-License-Identifier: Apache-2.0
// CPU kernel of rotary.
#include "baton/ops/rotary.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

void check(const at::Tensor& x_THP, const at::Tensor& positions_T, const at::Tensor& frequencies) {
  check_activation("x", x_THP);
  TORCH_CHECK(x_THP.dim() == 3, "x must be [T, H, P], got ", x_THP.sizes());
  TORCH_CHECK(
      positions_T.dim() == 1 && positions_T.scalar_type() == at::kLong &&
          positions_T.size(0) == x_THP.size(0),
      "positions must be int64 [T]: ",
      positions_T.sizes(),
      " vs T = ",
      x_THP.size(0));
  TORCH_CHECK(
      frequencies.dim() == 1 && 2 * frequencies.size(0) <= x_THP.size(2),
      "twice the number of frequencies must not exceed the head: ",
      frequencies.sizes(),
      " vs ",
      x_THP.size(2));
}

/// One token: its heads share cosines and sines.
template <class T, class Value>
void turn_token(
    const at::TensorAccessor<const T, 3>& x,
    std::int64_t t,
    const std::vector<Value>& cosines,
    const std::vector<Value>& sines,
    bool interleaved,
    T* y) {
  const auto pairs = static_cast<std::int64_t>(cosines.size());
  const std::int64_t head_dim = x.size(2);
  const std::int64_t near = interleaved ? 2 : 1;
  const std::int64_t apart = interleaved ? 1 : pairs;
  for (std::int64_t h = 0; h < x.size(1); ++h) {
    const T* from = &x[t][h][0];
    T* to = y + h * head_dim;
    for (std::int64_t i = 0; i < pairs; ++i) {
      const auto a = static_cast<Value>(from[near * i]);
      const auto b = static_cast<Value>(from[near * i + apart]);
      const auto place = static_cast<std::size_t>(i);
      to[near * i] = static_cast<T>(a * cosines[place] - b * sines[place]);
      to[near * i + apart] = static_cast<T>(b * cosines[place] + a * sines[place]);
    }
    std::copy(from + 2 * pairs, from + head_dim, to + 2 * pairs);
  }
}

at::Tensor rotary_cpu(
    const at::Tensor& x_THP,
    const at::Tensor& positions_T,
    const at::Tensor& inverse_frequencies,
    double attention_factor,
    bool interleaved) {
  check(x_THP, positions_T, inverse_frequencies);
  const at::Tensor x_dense = x_THP.stride(2) == 1 ? x_THP : x_THP.contiguous();
  const at::Tensor positions = positions_T.contiguous();
  const auto* position = positions.const_data_ptr<std::int64_t>();
  const at::Tensor frequencies = inverse_frequencies.to(at::kDouble).contiguous();
  const auto* frequency = frequencies.const_data_ptr<double>();
  const auto pairs = static_cast<std::size_t>(frequencies.size(0));
  at::Tensor y_THP = at::empty(x_THP.sizes(), x_THP.options());
  const std::int64_t values = x_THP.size(1) * x_THP.size(2);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x_THP.scalar_type(), "rotary", [&] {
    using Value = at::opmath_type<scalar_t>;
    const auto x = x_dense.accessor<const scalar_t, 3>();
    auto* y = y_THP.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, x_THP.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
      std::vector<Value> cosines(pairs);
      std::vector<Value> sines(pairs);
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::size_t i = 0; i < pairs; ++i) {
          // fp64 angles: at a million positions an fp32 product would be off by a tenth of a turn.
          const double angle = static_cast<double>(position[t]) * frequency[i];
          cosines[i] = static_cast<Value>(std::cos(angle) * attention_factor);
          sines[i] = static_cast<Value>(std::sin(angle) * attention_factor);
        }
        turn_token<scalar_t, Value>(x, t, cosines, sines, interleaved, y + t * values);
      }
    });
  });
  return y_THP;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("rotary", rotary_cpu);
}

} // namespace baton::ops
