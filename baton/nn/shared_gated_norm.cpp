// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/shared_gated_norm.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>

#include "baton/parallel/tensor_rows.h"

namespace baton::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// This rank's channels of one group.
struct Stretch {
  std::int64_t group;
  std::int64_t first; ///< of this rank's
  std::int64_t count;
};

std::vector<Stretch>
stretches_of(std::int64_t channels, std::int64_t group_size, const parallel::Group& ranks) {
  std::vector<Stretch> stretches;
  const std::int64_t begin = channels * ranks.rank();
  for (std::int64_t at = begin; at < begin + channels;) {
    const std::int64_t group = at / group_size;
    const std::int64_t end = std::min(begin + channels, (group + 1) * group_size);
    stretches.push_back({group, at - begin, end - at});
    at = end;
  }
  return stretches;
}

/// Sums over each whole group of values [T, C] -> [T, groups], of which a rank uses its own.
at::Tensor sum_groups(
    const at::Tensor& values_TC,
    const std::vector<Stretch>& stretches,
    std::int64_t groups,
    const parallel::Group& ranks) {
  at::Tensor sums = at::zeros({values_TC.size(0), groups}, values_TC.options());
  for (const Stretch& stretch : stretches) {
    sums.select(1, stretch.group).copy_(values_TC.narrow(1, stretch.first, stretch.count).sum(1));
  }
  ranks.all_reduce_(sums);
  return sums;
}

/// A group's number [T, groups] for each of this rank's channels, [T, C].
at::Tensor of_channels(const at::Tensor& groups_TG, const std::vector<Stretch>& stretches) {
  std::vector<at::Tensor> columns;
  columns.reserve(stretches.size());
  for (const Stretch& stretch : stretches) {
    columns.push_back(
        groups_TG.narrow(1, stretch.group, 1).expand({groups_TG.size(0), stretch.count}));
  }
  return at::cat(columns, 1);
}

/// y and z in the dtype of the sums, the gate, and v, what is normed.
struct Gated {
  Gated(const at::Tensor& y_in, const at::Tensor& z_in, bool gate_first)
      : y(y_in.to(at::toOpMathType(y_in.scalar_type()))),
        z(z_in.to(y.scalar_type())),
        gate(at::silu(z)),
        v(gate_first ? y * gate : y) {}

  at::Tensor y;
  at::Tensor z;
  at::Tensor gate;
  at::Tensor v;
};

/// v is y * gate (gate first) or y, e the gradient dout or dout * gate, r the inverse root mean
/// square of v over n channels: dv = r (w e - v r^2 sum(w e v) / n), dweight = sum(e v r).
struct SharedGatedNorm : torch::autograd::Function<SharedGatedNorm> {
  static at::Tensor forward(
      AutogradContext* saved,
      const at::Tensor& y,
      const at::Tensor& z,
      const at::Tensor& weight,
      const ops::GatedNormConfig& config,
      const parallel::Group& ranks) {
    const Gated gated(y, z, config.gate_first);
    const std::int64_t groups = y.size(1) * ranks.size() / config.group_size;
    const std::vector<Stretch> stretches = stretches_of(y.size(1), config.group_size, ranks);
    const at::Tensor scale_TG =
        (sum_groups(gated.v.square(), stretches, groups, ranks) / config.group_size + config.eps)
            .rsqrt();
    at::Tensor out = gated.v * of_channels(scale_TG, stretches) * weight;
    saved->save_for_backward({y, z, weight, scale_TG});
    saved->saved_data["group_size"] = config.group_size;
    saved->saved_data["gate_first"] = config.gate_first;
    saved->saved_data["ranks"] = parallel::keep_group(ranks);
    return (config.gate_first ? out : out.mul_(gated.gate)).to(y.scalar_type());
  }

  static variable_list backward(AutogradContext* saved, variable_list gradients) {
    const variable_list kept = saved->get_saved_variables();
    const at::Tensor& weight = kept[2];
    const at::Tensor& scale_TG = kept[3];
    const std::int64_t group_size = saved->saved_data["group_size"].toInt();
    const bool gate_first = saved->saved_data["gate_first"].toBool();
    const parallel::Group& ranks = parallel::kept_group(saved->saved_data["ranks"]);
    const Gated gated(kept[0], kept[1], gate_first);
    const std::vector<Stretch> stretches = stretches_of(gated.y.size(1), group_size, ranks);
    const at::Tensor dout = gradients[0].to(gated.y.scalar_type());
    const at::Tensor e = gate_first ? dout : dout * gated.gate;
    const at::Tensor we = e * weight;
    const at::Tensor sums_TG = sum_groups(we * gated.v, stretches, scale_TG.size(1), ranks);
    const at::Tensor r = of_channels(scale_TG, stretches);
    const at::Tensor pull =
        of_channels(scale_TG.square() * sums_TG / static_cast<double>(group_size), stretches);
    const at::Tensor normed = gated.v * r;
    const at::Tensor dv = r * (we - gated.v * pull);
    const at::Tensor dgate = gate_first ? dv * gated.y : dout * weight * normed;
    const at::Tensor s = at::sigmoid(gated.z);
    const at::Tensor dz = dgate * s * (1.0 + gated.z * (1.0 - s));
    return {
        (gate_first ? dv * gated.gate : dv).to(kept[0].scalar_type()),
        dz.to(kept[1].scalar_type()),
        (e * normed).sum(0).to(weight.scalar_type()),
        at::Tensor(),
        at::Tensor()};
  }
};

} // namespace

at::Tensor shared_gated_norm(
    const at::Tensor& y,
    const at::Tensor& z,
    const at::Tensor& weight,
    const ops::GatedNormConfig& config,
    const parallel::Group& ranks) {
  return SharedGatedNorm::apply(y, z, weight, config, ranks);
}

} // namespace baton::nn
