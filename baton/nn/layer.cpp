// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/layer.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>

#include "baton/ops/dropout.h"
#include "baton/parallel/tensor_rows.h"

namespace baton::nn {

Layer::Layer(char symbol, std::int64_t index, const LayerConfig& config, ParameterStore& store)
    : name_("layers." + std::to_string(index)),
      tensor_ranks_(store.tensor_ranks()),
      norm_eps_(config.norm_eps),
      dropout_(config.dropout),
      residual_multiplier_(config.residual_multiplier),
      norm_(store.declare(
          {.name = name_ + ".norm.weight",
           .shape = {config.width},
           .cut = {},
           .start = start_constant(1.0),
           .weight_decay = false})),
      sublayer_(make_sublayer(symbol, {.layer_name = name_, .config = config, .store = store})) {}

// A token's mask is that of its place in the stream, whichever rank has it.
at::Tensor Layer::drop(const at::Tensor& output_TD, const StepContext& context) const {
  const RandomKey key = context.random_key.with(name_);
  const parallel::Share own =
      parallel::even_share(context.layout.num_tokens, tensor_ranks_.rank(), tensor_ranks_.size());
  if (context.shared == nullptr) {
    return ops::dropout(output_TD, key, own.first, dropout_);
  }
  const parallel::ContextPart& part = context.shared->part();
  const std::int64_t in_first = std::clamp<std::int64_t>(part.lengths[0] - own.first, 0, own.count);
  const std::int64_t second_first = std::max<std::int64_t>(0, own.first - part.lengths[0]);
  const std::vector<at::Tensor> segments =
      output_TD.split_with_sizes({in_first, own.count - in_first});
  return at::cat(
      {ops::dropout(segments[0], key, part.begins[0] + own.first, dropout_),
       ops::dropout(segments[1], key, part.begins[1] + second_first, dropout_)});
}

at::Tensor Layer::forward(const at::Tensor& hidden_TD, const StepContext& context) const {
  const ops::LayerFrame frame{norm_.value, norm_eps_, residual_multiplier_};
  if (context.form == Form::kStep) {
    return sublayer_->step(hidden_TD, frame, context);
  }
  at::Tensor output_TD = sublayer_->forward(ops::norm_in(frame, hidden_TD), context);
  if (context.dropout && dropout_ > 0.0) {
    output_TD = drop(output_TD, context);
  }
  return ops::add_out(frame, hidden_TD, output_TD);
}

} // namespace baton::nn
