// SPDX-License-Identifier: Apache-2.0
// Few rows times a weight, at the speed at which memory delivers the weight.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "baton/ops/cpu/matvec.cpp"

#include <ATen/ATen.h>
#include <hwy/foreach_target.h>
#include <torch/library.h>
// foreach_target.h comes first.
#include <algorithm>
#include <cstdint>
#include <optional>

#include <hwy/highway.h>

#include "baton/ops/cpu/each_item.h"
#include "baton/ops/linear.h"

#ifndef BATON_OPS_CPU_MATVEC_TASK
#define BATON_OPS_CPU_MATVEC_TASK
namespace baton::ops::cpu {

/// Some weight rows against all rows of x.
struct MatvecTask {
  const float* x_BD;     ///< contiguous, widened
  std::int64_t num_rows; ///< B
  std::int64_t depth;    ///< D
  const void* weight_FD; ///< float or bfloat16
  std::int64_t weight_stride;
  float* y_BF;              ///< without the bias
  std::int64_t num_outputs; ///< F
};

} // namespace baton::ops::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace baton::ops::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
hn::Vec<D> load_wide(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D>
hn::Vec<D> load_wide(D d, const hwy::bfloat16_t* from) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::bfloat16_t, D>(), from));
}

inline float wide(float value) {
  return value;
}
inline float wide(hwy::bfloat16_t value) {
  return hwy::F32FromBF16(value);
}

/// Depth that goes through together, so that some rows of x stay in the first-level cache.
constexpr std::int64_t kDepthBlock = 1024;

/// The range of weight rows and of the depth that a pass takes.
struct Range {
  std::int64_t first_output;
  std::int64_t last_output;
  std::int64_t first_depth;
  std::int64_t last_depth;
};

/// Adds the products of kOutputs weight rows with kRows rows of x over a range of the depth. Their
/// sums run side by side, so that the multiply-add units never wait for one of them.
template <int kRows, int kOutputs, class Weight>
void dot_block(const MatvecTask& task, std::int64_t row, std::int64_t output, const Range& range) {
  const hn::ScalableTag<float> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float* x_BD = task.x_BD + row * task.depth;
  const Weight* weight = static_cast<const Weight*>(task.weight_FD) + output * task.weight_stride;
  hn::Vec<decltype(d)> sums[kOutputs][kRows];
  HWY_UNROLL(8)
  for (int o = 0; o < kOutputs; ++o) {
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      sums[o][r] = hn::Zero(d);
    }
  }
  std::int64_t i = range.first_depth;
  for (; i + lanes <= range.last_depth; i += lanes) {
    hn::Vec<decltype(d)> x[kRows];
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      x[r] = hn::LoadU(d, x_BD + r * task.depth + i);
    }
    HWY_UNROLL(8)
    for (int o = 0; o < kOutputs; ++o) {
      const auto w = load_wide(d, weight + o * task.weight_stride + i);
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) {
        sums[o][r] = hn::MulAdd(w, x[r], sums[o][r]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int o = 0; o < kOutputs; ++o) {
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      float sum = hn::GetLane(hn::SumOfLanes(d, sums[o][r]));
      for (std::int64_t j = i; j < range.last_depth; ++j) {
        sum += wide(weight[o * task.weight_stride + j]) * x_BD[r * task.depth + j];
      }
      float& y = task.y_BF[(row + r) * task.num_outputs + output + o];
      y = range.first_depth == 0 ? sum : y + sum;
    }
  }
}

template <int kRows, int kOutputs, class Weight>
void dot_outputs(const MatvecTask& task, std::int64_t row, const Range& range) {
  std::int64_t output = range.first_output;
  for (; output + kOutputs <= range.last_output; output += kOutputs) {
    dot_block<kRows, kOutputs, Weight>(task, row, output, range);
  }
  for (; output < range.last_output; ++output) {
    dot_block<kRows, 1, Weight>(task, row, output, range);
  }
}

template <class Weight>
void dot_rows(const MatvecTask& task, const Range& range) {
  std::int64_t row = 0;
  for (; row + 4 <= task.num_rows; row += 4) {
    dot_outputs<4, 2, Weight>(task, row, range);
  }
  switch (task.num_rows - row) {
    case 3:
      return dot_outputs<3, 2, Weight>(task, row, range);
    case 2:
      return dot_outputs<2, 4, Weight>(task, row, range);
    case 1:
      return dot_outputs<1, 8, Weight>(task, row, range);
    default:
      return;
  }
}

template <class Weight>
void matvec_outputs(const MatvecTask& task, std::int64_t first, std::int64_t last) {
  std::int64_t depth = 0;
  do {
    const std::int64_t end = std::min(depth + kDepthBlock, task.depth);
    dot_rows<Weight>(task, {first, last, depth, end});
    depth = end;
  } while (depth < task.depth);
}

void matvec_float(const MatvecTask& task, std::int64_t first, std::int64_t last) {
  matvec_outputs<float>(task, first, last);
}

void matvec_bfloat16(const MatvecTask& task, std::int64_t first, std::int64_t last) {
  matvec_outputs<hwy::bfloat16_t>(task, first, last);
}

} // namespace baton::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::ops::cpu {
namespace {

HWY_EXPORT(matvec_float);
HWY_EXPORT(matvec_bfloat16);

constexpr std::int64_t kBlockBytes = 64 << 10; // of weights, what an item reads

at::Tensor matvec(
    const at::Tensor& x_BD,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F) {
  const at::ScalarType dtype = x_BD.scalar_type();
  TORCH_CHECK(
      x_BD.dim() == 2 && weight_FD.dim() == 2 && x_BD.size(1) == weight_FD.size(1) &&
          x_BD.size(0) <= kMatvecRows,
      "matvec takes x [B, D] with B <= ",
      kMatvecRows,
      " and weight [F, D], got ",
      x_BD.sizes(),
      " and ",
      weight_FD.sizes());
  TORCH_CHECK(
      (dtype == at::kFloat || dtype == at::kBFloat16) && weight_FD.scalar_type() == dtype,
      "matvec takes float32 or bfloat16, the same for both, got ",
      dtype,
      " and ",
      weight_FD.scalar_type());
  const at::Tensor x = x_BD.to(at::kFloat).contiguous();
  const at::Tensor weight =
      weight_FD.stride(1) == 1 || weight_FD.size(1) == 1 ? weight_FD : weight_FD.contiguous();
  at::Tensor y_BF = at::empty({x.size(0), weight.size(0)}, x.options());
  const MatvecTask task{
      x.const_data_ptr<float>(),
      x.size(0),
      x.size(1),
      weight.const_data_ptr(),
      weight.stride(0),
      y_BF.mutable_data_ptr<float>(),
      weight.size(0)};
  const std::int64_t row_bytes = std::max<std::int64_t>(1, x.size(1) * weight.element_size());
  const std::int64_t block = std::max<std::int64_t>(8, kBlockBytes / row_bytes / 8 * 8);
  const std::int64_t count = x.size(0) == 0 ? 0 : (weight.size(0) + block - 1) / block;
  for_each_item(count, [&](std::int64_t item) {
    const std::int64_t first = item * block;
    const std::int64_t last = std::min(first + block, task.num_outputs);
    if (dtype == at::kFloat) {
      HWY_DYNAMIC_DISPATCH(matvec_float)(task, first, last);
    } else {
      HWY_DYNAMIC_DISPATCH(matvec_bfloat16)(task, first, last);
    }
  });
  if (bias_F) {
    y_BF.add_(*bias_F);
  }
  return y_BF.to(dtype);
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("matvec", &matvec);
}

} // namespace baton::ops::cpu
#endif
