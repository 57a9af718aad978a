// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/ssd_plan.h"

#include "baton/base/layout.h"

namespace baton::ops::cpu {
namespace {

std::vector<SsdChunk> chunks_of(const std::vector<std::int64_t>& starts) {
  std::vector<SsdChunk> chunks;
  for (std::size_t b = 0; b + 1 < starts.size(); ++b) {
    for (std::int64_t first = starts[b]; first < starts[b + 1]; first += kSsdChunk) {
      const std::int64_t rows = std::min(kSsdChunk, starts[b + 1] - first);
      chunks.push_back(
          {static_cast<std::int64_t>(b),
           first,
           rows,
           first == starts[b],
           first + rows == starts[b + 1]});
    }
  }
  return chunks;
}

} // namespace

template <class Real>
SsdPlan<Real>::SsdPlan(
    const SsdSizes& sizes,
    const at::Tensor& dt,
    const at::Tensor& A,
    const at::Tensor& starts_B1,
    const SsdTimeStep& time_step)
    : sizes(sizes),
      starts(checked_starts(starts_B1, sizes.T)),
      chunks(chunks_of(starts)),
      rule{time_step.softplus, time_step.min, time_step.max} {
  const at::ScalarType dtype = c10::CppTypeToScalarType<Real>::value;
  raw_TH = dt.to(dtype).contiguous();
  A_H = A.to(dtype).contiguous();
  if (time_step.bias_H.has_value()) {
    bias_H = time_step.bias_H->to(dtype).contiguous();
  }
  dt_HT = at::empty({sizes.H, head_stride()}, raw_TH.options());
  high_HT = at::empty_like(dt_HT);
  low_HT = at::empty_like(dt_HT);
  const Real* raw = raw_TH.const_data_ptr<Real>();
  const Real* a = A_H.const_data_ptr<Real>();
  Real* dt_out = dt_HT.mutable_data_ptr<Real>();
  Real* high = high_HT.mutable_data_ptr<Real>();
  Real* low = low_HT.mutable_data_ptr<Real>();
  const std::int64_t H = sizes.H;
  const SsdRows<Real>& loops = ssd_rows<Real>();
  for_each_item(
      static_cast<std::int64_t>(chunks.size()),
      [&] { return make_scratch<Real>(kSsdChunk * H); },
      [&](const Scratch<Real>& tile, std::int64_t c) {
        const SsdChunk& chunk = chunks[c];
        for (std::int64_t r = 0; r < chunk.rows; ++r) {
          loops.time_steps(rule, H, raw + (chunk.first + r) * H, bias(), tile.get() + r * H);
        }
        for (std::int64_t h = 0; h < H; ++h) {
          const std::int64_t at = h * head_stride() + chunk.first;
          double sum = 0;
          for (std::int64_t r = 0; r < chunk.rows; ++r) {
            const Real step = tile[r * H + h];
            sum += static_cast<double>(step) * static_cast<double>(a[h]);
            dt_out[at + r] = step;
            high[at + r] = static_cast<Real>(sum);
            low[at + r] = static_cast<Real>(sum - static_cast<double>(high[at + r]));
          }
        }
      });
}

template <class Real>
std::int64_t SsdPlan<Real>::window() const {
  constexpr std::int64_t kItems = 64;
  constexpr std::int64_t kBytes = std::int64_t{8} << 20;
  const std::int64_t for_items = (kItems + sizes.G - 1) / sizes.G;
  const std::int64_t bytes = sizes.H * sizes.state_size() * static_cast<std::int64_t>(sizeof(Real));
  return std::max<std::int64_t>({for_items, kBytes / bytes, 1});
}

template <class Real>
std::int64_t SsdPlan<Real>::head_block() const {
  constexpr std::int64_t kColumns = 256;
  return std::clamp<std::int64_t>(kColumns / sizes.P, 1, sizes.heads_per_group());
}

at::Tensor with_dense_rows(const at::Tensor& tensor) {
  const std::int64_t columns = tensor.size(1) * tensor.size(2);
  const bool dense = (tensor.size(2) == 1 || tensor.stride(2) == 1) &&
                     (tensor.size(1) == 1 || tensor.stride(1) == tensor.size(2)) &&
                     (tensor.size(0) <= 1 || tensor.stride(0) >= columns);
  return dense ? tensor : tensor.contiguous();
}

template struct SsdPlan<float>;
template struct SsdPlan<double>;

} // namespace baton::ops::cpu
