// SPDX-License-Identifier: Apache-2.0
// The scan token by token in fp64, as its formula stands: the judge of the tests.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "baton/ops/ssd.h"

namespace baton::ops {

/// Random inputs whose gradients all matter: decays between about 0.3 and 0.999 a token.
struct SsdCase {
  std::vector<std::int64_t> lengths{1};
  std::int64_t H = 4, P = 5, G = 2, N = 6;
  bool skip_per_channel = false;

  std::int64_t num_tokens() const {
    std::int64_t total = 0;
    for (const std::int64_t length : lengths) {
      total += length;
    }
    return total;
  }

  SsdInputs make() const {
    const auto options = at::TensorOptions().dtype(at::kDouble);
    const std::int64_t T = num_tokens();
    std::vector<std::int64_t> starts{0};
    for (const std::int64_t length : lengths) {
      starts.push_back(starts.back() + length);
    }
    const at::Tensor D = skip_per_channel ? at::randn({H, P}, options) : at::randn({H}, options);
    return {
        at::randn({T, H, P}, options),
        at::randn({T, H}, options),
        -at::rand({H}, options) - 0.05,
        at::randn({T, G, N}, options),
        at::randn({T, G, N}, options),
        at::tensor(starts, at::TensorOptions().dtype(at::kInt)),
        D,
        {at::randn({H}, options) - 1.0}};
  }
};

inline std::vector<at::Tensor*> floating_inputs(SsdInputs& in, SsdStart& start) {
  std::vector<at::Tensor*> list{&in.x_THP, &in.dt_TH, &in.A_H, &in.B_TGN, &in.C_TGN};
  for (std::optional<at::Tensor>* tensor : {&in.D, &in.time_step.bias_H, &start.states_SHPN}) {
    if (tensor->has_value()) {
      list.push_back(&**tensor);
    }
  }
  return list;
}

/// A copy with activations in `dtype` and, for bf16, parameters in fp32.
inline std::pair<SsdInputs, SsdStart>
converted(SsdInputs in, SsdStart start, at::ScalarType dtype) {
  const at::ScalarType wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
  for (at::Tensor* tensor : floating_inputs(in, start)) {
    *tensor = tensor->detach().to(wide);
  }
  for (at::Tensor* tensor : {&in.x_THP, &in.dt_TH, &in.B_TGN, &in.C_TGN}) {
    *tensor = tensor->to(dtype);
  }
  return {in, start};
}

inline SsdOutput ssd_recurrence(const SsdInputs& in, const SsdStart& start = {}) {
  const auto wide = [](const at::Tensor& tensor) { return tensor.to(at::kDouble); };
  const std::int64_t repeat = in.x_THP.size(1) / in.B_TGN.size(1);
  const at::Tensor x = wide(in.x_THP);
  const at::Tensor B = wide(in.B_TGN).repeat_interleave(repeat, 1);
  const at::Tensor C = wide(in.C_TGN).repeat_interleave(repeat, 1);
  at::Tensor dt = wide(in.dt_TH);
  if (in.time_step.bias_H.has_value()) {
    dt = dt + wide(*in.time_step.bias_H);
  }
  if (in.time_step.softplus) {
    dt = at::softplus(dt);
  }
  dt = dt.clamp(in.time_step.min, in.time_step.max);
  const at::Tensor decay = at::exp(dt * wide(in.A_H));
  const at::Tensor starts = in.starts.to(at::kLong);
  std::vector<at::Tensor> y, final_states;
  for (std::int64_t b = 0; b + 1 < starts.size(0); ++b) {
    at::Tensor h = at::zeros({x.size(1), x.size(2), B.size(2)}, x.options());
    if (start.states_SHPN.has_value()) {
      const std::int64_t slot =
          start.slots_B.has_value() ? start.slots_B->select(0, b).item<std::int64_t>() : b;
      h = slot < 0 ? h : wide(start.states_SHPN->select(0, slot));
    }
    const std::int64_t end = starts[b + 1].item<std::int64_t>();
    for (std::int64_t t = starts[b].item<std::int64_t>(); t < end; ++t) {
      const at::Tensor input = dt[t].unsqueeze(1) * x[t];
      h = decay[t].view({-1, 1, 1}) * h + input.unsqueeze(2) * B[t].unsqueeze(1);
      y.push_back((h * C[t].unsqueeze(1)).sum(2));
    }
    final_states.push_back(h);
  }
  at::Tensor out = y.empty() ? at::zeros_like(x) : at::stack(y);
  if (in.D.has_value()) {
    out = out + (in.D->dim() == 1 ? wide(*in.D).unsqueeze(1) : wide(*in.D)) * x;
  }
  return {
      out,
      final_states.empty() ? at::zeros({0, x.size(1), x.size(2), B.size(2)}, x.options())
                           : at::stack(final_states)};
}

/// Largest difference, relative to the largest value.
inline double relative_error(const at::Tensor& got, const at::Tensor& expected) {
  TORCH_CHECK(got.sizes() == expected.sizes(), got.sizes(), " vs ", expected.sizes());
  if (got.numel() == 0) {
    return 0;
  }
  const at::Tensor want = expected.to(at::kDouble);
  const double size = std::max(want.abs().max().item<double>(), 1e-3);
  return (got.to(at::kDouble) - want).abs().max().item<double>() / size;
}

} // namespace baton::ops
