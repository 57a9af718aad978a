// SPDX-License-Identifier: Apache-2.0
// Few rows times a weight, at the speed at which memory delivers the weight.
#include "baton/ops/cpu/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/matvec.cpp"

#include <ATen/ATen.h>
#include <hwy/foreach_target.h>
#include <torch/library.h>
// foreach_target.h comes first.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <type_traits>

#include <hwy/aligned_allocator.h>
#include <hwy/highway.h>

#include "baton/ops/cpu/each_item.h"
#include "baton/ops/cpu/matvec.h"
#include "baton/ops/linear.h"

HWY_BEFORE_NAMESPACE();
namespace baton::ops::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// The products of one vector of weights and one of x, or of two each, added to a sum.
struct FloatStep {
  static constexpr std::int64_t kVectors = 1;
  static constexpr int kStreams = 2; // of one row of x, as many as were read fastest

  /// Where the value of depth i of x lies in its row.
  static std::int64_t place(std::int64_t i, std::int64_t) { return i; }

  template <class D>
  struct Weights {
    Weights(D d, const float* from) : values(hn::LoadU(d, from)) {}
    hn::Vec<D> add(D d, const float* x, std::int64_t, hn::Vec<D> sum) const {
      return hn::MulAdd(values, hn::LoadU(d, x), sum);
    }
    hn::Vec<D> values;
  };
};

/// Two bf16 values stand in 32 bits: the even one widens by a shift, the odd one by a mask.
struct BFloat16Step {
  static constexpr std::int64_t kVectors = 2;
  static constexpr int kStreams = 4;

  static std::int64_t place(std::int64_t i, std::int64_t depth) {
    return i % 2 == 0 ? i / 2 : (depth + 1) / 2 + i / 2;
  }

  template <class D>
  struct Weights {
    using U = hn::RebindToUnsigned<D>;
    Weights(D d, const at::BFloat16* from) {
      const U u;
      const auto pairs = hn::LoadU(u, reinterpret_cast<const std::uint32_t*>(from));
      even = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
      odd = hn::BitCast(d, hn::And(pairs, hn::Set(u, 0xFFFF0000U)));
    }
    hn::Vec<D> add(D d, const float* x, std::int64_t depth, hn::Vec<D> sum) const {
      sum = hn::MulAdd(even, hn::LoadU(d, x), sum);
      return hn::MulAdd(odd, hn::LoadU(d, x + (depth + 1) / 2), sum);
    }
    hn::Vec<D> even, odd;
  };
};

template <class Weight>
using StepOf = std::conditional_t<std::is_same_v<Weight, float>, FloatStep, BFloat16Step>;

/// Products of kRows rows of x with kStreams weight rows, `gap` rows apart. Memory delivers several
/// streams that are read from end to end faster than one.
template <int kRows, int kStreams, class Weight>
void dot_streams(
    const MatvecTask& task,
    const float* x_BD,
    std::int64_t row,
    std::int64_t output,
    std::int64_t gap) {
  using Step = StepOf<Weight>;
  const hn::ScalableTag<float> d;
  const std::int64_t values = Step::kVectors * static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t depth = task.depth;
  const std::int64_t stride = gap * task.weight_stride;
  const float* x = x_BD + row * depth;
  const Weight* weight = static_cast<const Weight*>(task.weight_FD) + output * task.weight_stride;
  const auto* bias = static_cast<const Weight*>(task.bias_F);
  auto* y_BF = static_cast<Weight*>(task.y_BF);
  hn::Vec<decltype(d)> sums[kStreams][kRows];
  HWY_UNROLL(4)
  for (int s = 0; s < kStreams; ++s) {
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) {
      sums[s][r] = hn::Zero(d);
    }
  }
  std::int64_t i = 0;
  for (; i + values <= depth; i += values) {
    HWY_UNROLL(4)
    for (int s = 0; s < kStreams; ++s) {
      const typename Step::template Weights<decltype(d)> w(d, weight + s * stride + i);
      HWY_UNROLL(4)
      for (int r = 0; r < kRows; ++r) {
        sums[s][r] = w.add(d, x + r * depth + i / Step::kVectors, depth, sums[s][r]);
      }
    }
  }
  HWY_UNROLL(4)
  for (int s = 0; s < kStreams; ++s) {
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) {
      float sum = hn::GetLane(hn::SumOfLanes(d, sums[s][r]));
      for (std::int64_t j = i; j < depth; ++j) {
        sum += static_cast<float>(weight[s * stride + j]) * x[r * depth + Step::place(j, depth)];
      }
      const std::int64_t to = output + s * gap;
      if (bias != nullptr) {
        sum += static_cast<float>(bias[to]);
      }
      y_BF[(row + r) * task.num_outputs + to] = static_cast<Weight>(sum);
    }
  }
}

template <int kRows, int kStreams, class Weight>
void dot_rows(
    const MatvecTask& task,
    const float* x_BD,
    std::int64_t row,
    std::int64_t first,
    std::int64_t last) {
  const std::int64_t gap = (last - first) / kStreams;
  for (std::int64_t output = first; output < first + gap; ++output) {
    dot_streams<kRows, kStreams, Weight>(task, x_BD, row, output, gap);
  }
  for (std::int64_t output = first + gap * kStreams; output < last; ++output) {
    dot_streams<kRows, 1, Weight>(task, x_BD, row, output, 0);
  }
}

/// Rows of x go four at a time over a block of weights, which stays in the nearer caches meanwhile.
/// Several rows take as many streams as sums fit into the registers of AVX2.
template <class Weight>
void matvec_outputs(
    const MatvecTask& task,
    const float* x_BD,
    std::int64_t first,
    std::int64_t last) {
  std::int64_t row = 0;
  for (; row + 4 <= task.num_rows; row += 4) {
    dot_rows<4, 2, Weight>(task, x_BD, row, first, last);
  }
  switch (task.num_rows - row) {
    case 3:
      return dot_rows<3, 3, Weight>(task, x_BD, row, first, last);
    case 2:
      return dot_rows<2, 4, Weight>(task, x_BD, row, first, last);
    case 1:
      return dot_rows<1, StepOf<Weight>::kStreams, Weight>(task, x_BD, row, first, last);
    default:
      return;
  }
}

void matvec_float(
    const MatvecTask& task,
    const float* x_BD,
    std::int64_t first,
    std::int64_t last) {
  matvec_outputs<float>(task, x_BD, first, last);
}

void matvec_bfloat16(
    const MatvecTask& task,
    const float* x_BD,
    std::int64_t first,
    std::int64_t last) {
  matvec_outputs<at::BFloat16>(task, x_BD, first, last);
}

/// A row of x as BFloat16Step reads it: values of even depths first, then the others.
void place_bfloat16(const at::BFloat16* x, std::int64_t depth, float* out) {
  const hn::ScalableTag<float> d;
  const auto pairs_at_once = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t pairs = depth / 2;
  float* odd = out + (depth + 1) / 2;
  std::int64_t i = 0;
  for (; i + pairs_at_once <= pairs; i += pairs_at_once) {
    const BFloat16Step::Weights<decltype(d)> values(d, x + 2 * i);
    hn::StoreU(values.even, d, out + i);
    hn::StoreU(values.odd, d, odd + i);
  }
  for (std::int64_t j = 2 * i; j < depth; ++j) {
    out[BFloat16Step::place(j, depth)] = static_cast<float>(x[j]);
  }
}

} // namespace baton::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops::cpu {
namespace {

HWY_EXPORT(matvec_float);
HWY_EXPORT(matvec_bfloat16);
HWY_EXPORT(place_bfloat16);

constexpr std::int64_t kItemBytes = 128 << 10; // of weights

std::int64_t item_outputs(const MatvecTask& task) {
  const auto size = static_cast<std::int64_t>(c10::elementSize(task.dtype));
  return std::max<std::int64_t>(8, kItemBytes / (task.depth * size) / 8 * 8);
}

at::Tensor matvec(
    const at::Tensor& x_BD,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  check_matvec(x_BD, weight_FD, bias_F);
  const at::Tensor x = x_BD.contiguous();
  const at::Tensor weight =
      weight_FD.stride(1) == 1 || weight_FD.size(1) == 1 ? weight_FD : weight_FD.contiguous();
  const at::Tensor bias = bias_F ? bias_F->contiguous() : at::Tensor();
  at::Tensor y_BF = at::empty({x.size(0), weight.size(0)}, x_BD.options());
  if (x.size(1) == 0) {
    return bias.defined() ? y_BF.copy_(bias.expand_as(y_BF)) : y_BF.zero_();
  }
  const auto room =
      hwy::AllocateAligned<float>(static_cast<std::size_t>(std::max<std::int64_t>(1, x.numel())));
  const float* placed =
      place_rows(x.scalar_type(), x.const_data_ptr(), x.size(0), x.size(1), room.get());
  const MatvecTask task{
      .dtype = x.scalar_type(),
      .num_rows = x.size(0),
      .depth = x.size(1),
      .weight_FD = weight.const_data_ptr(),
      .weight_stride = weight.stride(0),
      .bias_F = bias.defined() ? bias.const_data_ptr() : nullptr,
      .y_BF = y_BF.mutable_data_ptr(),
      .num_outputs = weight.size(0)};
  for_each_item(
      matvec_items(task), [&](std::int64_t item) { run_matvec_item(task, placed, item); });
  return y_BF;
}

} // namespace

std::int64_t matvec_items(const MatvecTask& task) {
  const std::int64_t outputs = item_outputs(task);
  return task.num_rows == 0 ? 0 : (task.num_outputs + outputs - 1) / outputs;
}

MatvecOutputs run_matvec_item(const MatvecTask& task, const float* x_BD, std::int64_t item) {
  const std::int64_t outputs = item_outputs(task);
  const std::int64_t first = item * outputs;
  const std::int64_t last = std::min(first + outputs, task.num_outputs);
  if (task.dtype == at::kBFloat16) {
    HWY_DYNAMIC_DISPATCH(matvec_bfloat16)(task, x_BD, first, last);
  } else {
    HWY_DYNAMIC_DISPATCH(matvec_float)(task, x_BD, first, last);
  }
  return {first, last};
}

const float* place_rows(
    at::ScalarType dtype,
    const void* rows_BD,
    std::int64_t num_rows,
    std::int64_t depth,
    float* room) {
  if (dtype == at::kFloat) {
    return static_cast<const float*>(rows_BD);
  }
  const auto* rows = static_cast<const at::BFloat16*>(rows_BD);
  for (std::int64_t row = 0; row < num_rows; ++row) {
    HWY_DYNAMIC_DISPATCH(place_bfloat16)(rows + row * depth, depth, room + row * depth);
  }
  return room;
}

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("matvec", &matvec);
}

} // namespace baton::ops::cpu
#endif
