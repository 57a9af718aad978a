// SPDX-License-Identifier: Apache-2.0
#include "baton/train/rank_tokens.h"

namespace baton::train {

nn::StepContext RankTokens::context() const {
  return {
      .layout = microbatch.layout,
      .positions_T = microbatch.layout.positions(),
      .shared = shared.get()};
}

RankTokens tokens_of_rank(
    const Microbatch& host,
    const parallel::Mesh& mesh,
    const parallel::ContextRules& rules,
    at::Device device) {
  const parallel::Group& group = mesh.along(parallel::Axis::kContext);
  if (group.alone()) {
    return {host.to(device), nullptr};
  }
  const auto shared = c10::make_intrusive<parallel::Context>(host.layout, group, rules, device);
  Microbatch own = host;
  own.tokens_T = shared->own_rows(host.tokens_T);
  own.labels_T = shared->own_rows(host.labels_T);
  if (host.mask_T) {
    own.mask_T = shared->own_rows(*host.mask_T);
  }
  own.layout = shared->part().layout;
  return {own.to(device), shared};
}

} // namespace baton::train
