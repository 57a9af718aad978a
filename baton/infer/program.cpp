// SPDX-License-Identifier: Apache-2.0
#include "baton/infer/program.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "baton/base/huge_pages.h"
#include "baton/base/layout.h"
#include "baton/base/upload.h"
#include "baton/nn/step_context.h"

namespace baton::infer {

Program::Program(const model::HybridModel& model, StateCache& cache)
    : model_(model), cache_(cache) {
  for (const nn::Parameter& parameter : model.parameters().parameters()) {
    put_on_huge_pages(parameter.value);
  }
}

at::Tensor Program::run(const std::vector<BatchItem>& items) {
  const at::InferenceMode inference;
  std::vector<SequenceLayout::Sequence> sequences;
  std::vector<std::int64_t> tokens;
  std::vector<std::int32_t> slots;
  bool one_token_each = true;
  for (const BatchItem& item : items) {
    TORCH_CHECK(!item.tokens.empty(), "a batch item must hold at least one token");
    const auto slot = item.slot;
    sequences.push_back(
        {.length = static_cast<std::int64_t>(item.tokens.size()),
         .first_position = cache_.length(item.slot),
         .initial_slot = slot,
         .final_slot = slot});
    tokens.insert(tokens.end(), item.tokens.begin(), item.tokens.end());
    slots.push_back(item.slot);
    one_token_each = one_token_each && item.tokens.size() == 1;
  }
  for (const BatchItem& item : items) {
    cache_.grow(item.slot, static_cast<std::int64_t>(item.tokens.size()));
  }
  const at::Device device = model_.device();
  const SequenceLayout layout = make_layout(std::move(sequences)).to(device);
  const nn::CacheView view = cache_.view(slots);
  const nn::StepContext context{
      .layout = layout,
      .positions_T = layout.positions(),
      .cache = &view,
      .form = one_token_each ? nn::Form::kStep : nn::Form::kPrefill};
  return model_.hidden(upload(at::tensor(tokens, at::kLong), device), context);
}

at::Tensor Program::last_logits(const std::vector<BatchItem>& items) {
  const at::InferenceMode inference;
  at::Tensor rows = run(items);
  std::vector<std::int64_t> last;
  std::int64_t end = 0;
  for (const BatchItem& item : items) {
    end += static_cast<std::int64_t>(item.tokens.size());
    last.push_back(end - 1);
  }
  if (rows.size(0) > static_cast<std::int64_t>(last.size())) {
    rows = rows.index_select(0, upload(at::tensor(last, at::kLong), rows.device()));
  }
  const at::Tensor logits = model_.logits(rows);
  return logits.to(at::promote_types(logits.scalar_type(), at::kFloat));
}

} // namespace baton::infer
