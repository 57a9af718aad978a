// SPDX-License-Identifier: Apache-2.0
// Sum of squares on the CPU: blocks of a fixed size over threads, then a fixed tree over the
// blocks.
#include "baton/ops/cpu/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/sum_squares.cpp" // NOLINT
#include <cstdint>

#include <hwy/foreach_target.h> // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace baton::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using Doubles = hn::ScalableTag<double>;

HWY_INLINE hn::Vec<Doubles> load_doubles(Doubles d, const double* from) {
  return hn::LoadU(d, from);
}

HWY_INLINE hn::Vec<Doubles> load_doubles(Doubles d, const float* from) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<float, Doubles>(), from));
}

HWY_INLINE hn::Vec<Doubles> load_doubles(Doubles d, const std::uint16_t* from) {
  const hn::Rebind<float, Doubles> floats;
  const hn::RebindToUnsigned<decltype(floats)> bits;
  const hn::Rebind<std::uint16_t, Doubles> halves;
  const auto widened = hn::ShiftLeft<16>(hn::PromoteTo(bits, hn::LoadU(halves, from)));
  return hn::PromoteTo(d, hn::BitCast(floats, widened));
}

// Four sums hide the latency of the multiply-add; the partial vector at the end is filled with
// zeros.
template <class T>
double sum_block(const T* values, std::size_t count) {
  const Doubles d;
  const std::size_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d);
  auto sum1 = hn::Zero(d);
  auto sum2 = hn::Zero(d);
  auto sum3 = hn::Zero(d);
  std::size_t at = 0;
  for (; at + 4 * lanes <= count; at += 4 * lanes) {
    const auto value0 = load_doubles(d, values + at);
    const auto value1 = load_doubles(d, values + at + lanes);
    const auto value2 = load_doubles(d, values + at + 2 * lanes);
    const auto value3 = load_doubles(d, values + at + 3 * lanes);
    sum0 = hn::MulAdd(value0, value0, sum0);
    sum1 = hn::MulAdd(value1, value1, sum1);
    sum2 = hn::MulAdd(value2, value2, sum2);
    sum3 = hn::MulAdd(value3, value3, sum3);
  }
  for (; at < count; at += lanes) {
    T filled[HWY_MAX_BYTES / sizeof(double)] = {};
    for (std::size_t i = 0; i < lanes && at + i < count; ++i) {
      filled[i] = values[at + i];
    }
    const auto value = load_doubles(d, filled);
    sum0 = hn::MulAdd(value, value, sum0);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

double sum_block_double(const double* values, std::size_t count) {
  return sum_block(values, count);
}

double sum_block_float(const float* values, std::size_t count) {
  return sum_block(values, count);
}

double sum_block_bf16(const std::uint16_t* values, std::size_t count) {
  return sum_block(values, count);
}

} // namespace
} // namespace HWY_NAMESPACE
} // namespace baton::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

namespace baton::ops {
namespace {

HWY_EXPORT(sum_block_double);
HWY_EXPORT(sum_block_float);
HWY_EXPORT(sum_block_bf16);

constexpr std::int64_t kBlock = 16384;

double run_block(const double* values, std::size_t count) {
  return HWY_DYNAMIC_DISPATCH(sum_block_double)(values, count);
}
double run_block(const float* values, std::size_t count) {
  return HWY_DYNAMIC_DISPATCH(sum_block_float)(values, count);
}
double run_block(const std::uint16_t* values, std::size_t count) {
  return HWY_DYNAMIC_DISPATCH(sum_block_bf16)(values, count);
}

// Neighbours are added pair by pair until one sum is left.
double sum_tree(std::vector<double> sums) {
  for (std::size_t width = 1; width < sums.size(); width *= 2) {
    for (std::size_t i = 0; i + width < sums.size(); i += 2 * width) {
      sums[i] += sums[i + width];
    }
  }
  return sums.empty() ? 0.0 : sums.front();
}

template <class T>
double sum_values(const at::Tensor& x) {
  const auto* values = static_cast<const T*>(x.const_data_ptr());
  const std::int64_t count = x.numel();
  std::vector<double> sums(static_cast<std::size_t>((count + kBlock - 1) / kBlock));
  at::parallel_for(
      0, static_cast<std::int64_t>(sums.size()), 1, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t block = first; block < last; ++block) {
          const std::int64_t begin = block * kBlock;
          const auto size = static_cast<std::size_t>(std::min(kBlock, count - begin));
          sums[static_cast<std::size_t>(block)] = run_block(values + begin, size);
        }
      });
  return sum_tree(std::move(sums));
}

double sum_by_dtype(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kDouble:
      return sum_values<double>(x);
    case at::kFloat:
      return sum_values<float>(x);
    case at::kBFloat16:
      return sum_values<std::uint16_t>(x);
    default:
      TORCH_CHECK(false, "sum_squares: x must be fp64, fp32 or bf16, got ", x.scalar_type());
  }
}

at::Tensor sum_squares_cpu(const at::Tensor& x) {
  return at::full({}, sum_by_dtype(x.contiguous()), x.options().dtype(at::kDouble));
}

} // namespace
} // namespace baton::ops

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("sum_squares", &baton::ops::sum_squares_cpu);
}
#endif // HWY_ONCE
