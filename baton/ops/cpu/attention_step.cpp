// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/attention_step.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/cpu/page_tables.h"
#include "baton/ops/cpu/paged_write.h"
#include "baton/ops/cpu/rms_norm.h"
#include "baton/ops/cpu/rotary.h"
#include "baton/ops/step_chain.h"

namespace baton::ops::cpu {
namespace {

std::vector<double> wide_frequencies(const std::optional<at::Tensor>& frequencies) {
  if (!frequencies) {
    return {};
  }
  const auto* values = frequencies->const_data_ptr<float>();
  return {values, values + frequencies->size(0)};
}

} // namespace

bool AttentionStep::takes(const AttentionStepInputs& in, const AttentionStepCache& cache) {
  const at::ScalarType dtype = in.hidden_BD.scalar_type();
  return LayerStep::takes(in.hidden_BD, in.frame) &&
         LayerStep::takes(dtype, in.q_weight_QD, in.q_bias_Q) &&
         LayerStep::takes(dtype, in.k_weight_KD, in.k_bias_K) &&
         LayerStep::takes(dtype, in.v_weight_KD, in.v_bias_K) &&
         LayerStep::takes(dtype, in.out_weight_DQ, in.out_bias_D) &&
         is_plain(in.q_norm_weight_P, dtype) && is_plain(in.k_norm_weight_P, dtype) &&
         is_plain(in.inverse_frequencies, at::kFloat) && cache.k_pages.scalar_type() == dtype &&
         has_dense_tokens(cache.k_pages) && has_dense_tokens(cache.v_pages);
}

AttentionStep::AttentionStep(
    const AttentionStepInputs& in,
    const AttentionStepCache& cache,
    const AttentionStepSizes& sizes)
    : in_(in),
      cache_(cache),
      sizes_(sizes),
      layer_(room_, in.hidden_BD, in.frame),
      positions_(checked_positions(cache.positions_B)),
      frequencies_(wide_frequencies(in.inverse_frequencies)),
      pieces_(cache.k_pages, cache.v_pages, make_sequences(), sizes.heads),
      q_(room_, layer_.dtype(), layer_.num_rows(), sizes.heads * sizes.head_dim),
      k_(room_, layer_.dtype(), layer_.num_rows(), sizes.key_heads * sizes.head_dim),
      v_(room_, layer_.dtype(), layer_.num_rows(), sizes.key_heads * sizes.head_dim),
      turned_q_(room_, layer_.dtype(), layer_.num_rows(), sizes.heads * sizes.head_dim),
      turned_k_(room_, layer_.dtype(), layer_.num_rows(), sizes.key_heads * sizes.head_dim),
      attended_(room_, layer_.dtype(), layer_.num_rows(), sizes.heads * sizes.head_dim),
      q_product_(layer_.first_product(in_.q_weight_QD, in_.q_bias_Q, q_)),
      k_product_(layer_.first_product(in_.k_weight_KD, in_.k_bias_K, k_)),
      v_product_(layer_.first_product(in_.v_weight_KD, in_.v_bias_K, v_)),
      out_product_(layer_.last_product(in_.out_weight_DQ, in_.out_bias_D)) {}

/// The sequences with their new tokens, whose places it finds on the way.
PagedSequences AttentionStep::make_sequences() {
  const std::int64_t rows = layer_.num_rows();
  std::vector<std::int64_t> starts(rows + 1);
  std::iota(starts.begin(), starts.end(), 0);
  std::vector<std::int64_t> lengths(rows);
  std::transform(positions_.begin(), positions_.end(), lengths.begin(), [](std::int64_t position) {
    return position + 1;
  });
  PagedSequences sequences = checked_paged_sequences(
      cache_.k_pages, cache_.page_table_BM, std::move(starts), std::move(lengths));
  const std::int64_t page_size = cache_.k_pages.size(1);
  const auto* table = sequences.page_table_BM.const_data_ptr<std::int32_t>();
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t offset = positions_[row] % page_size;
    const std::int64_t page =
        table[row * cache_.page_table_BM.size(1) + positions_[row] / page_size];
    places_.push_back(
        {token_in_page(cache_.k_pages, page, offset), token_in_page(cache_.v_pages, page, offset)});
  }
  return sequences;
}

std::vector<Phase> AttentionStep::phases() {
  return {
      products(),
      Phase{
          .count = 2 * layer_.num_rows(),
          .work = [this](std::int64_t item, const void*) { run_heads(item); }},
      Phase{
          .count = pieces_.num_pieces(),
          .work = [this](std::int64_t item, const void*) { pieces_.attend(item); }},
      Phase{
          .count = pieces_.num_blocks(),
          .work =
              [this](std::int64_t item, const void*) {
                layer_.dtype() == at::kFloat ? pieces_.merge(item, attended_.data<float>())
                                             : pieces_.merge(item, attended_.data<c10::BFloat16>());
              }},
      layer_.product_and_add(out_product_, [this](void* rows) {
        const auto value_bytes = static_cast<std::int64_t>(c10::elementSize(layer_.dtype()));
        std::copy_n(
            attended_.data<char>(),
            layer_.num_rows() * attended_.channels() * value_bytes,
            static_cast<char*>(rows));
      })};
}

/// The items of queries, then those of keys, then those of values.
Phase AttentionStep::products() {
  Phase phase = layer_.norm_and_product(q_product_);
  phase.count += matvec_items(k_product_) + matvec_items(v_product_);
  phase.work = [this](std::int64_t item, const void* scratch) {
    run_product(item, product_rows(q_product_, scratch));
  };
  return phase;
}

void AttentionStep::run_product(std::int64_t item, const float* x_BD) const {
  for (const MatvecTask* product : {&q_product_, &k_product_, &v_product_}) {
    const std::int64_t items = matvec_items(*product);
    if (item < items) {
      run_matvec_item(*product, x_BD, item);
      return;
    }
    item -= items;
  }
}

/// A row's query, or its key and value.
void AttentionStep::run_heads(std::int64_t item) {
  const std::int64_t row = item / 2;
  if (item % 2 == 1) {
    write(row);
  } else if (layer_.dtype() == at::kFloat) {
    set_query<float>(row);
  } else {
    set_query<c10::BFloat16>(row);
  }
}

/// One row's heads, normed in place and turned where the layer says so.
const void* AttentionStep::turned_heads(
    std::int64_t row,
    std::int64_t heads,
    const std::optional<at::Tensor>& norm_weight_P,
    const StepRows& projected,
    const StepRows& turned) const {
  if (norm_weight_P) {
    const RmsNormRows task{
        .dtype = layer_.dtype(),
        .weight_dtype = layer_.dtype(),
        .x = projected.at(row),
        .weight = norm_weight_P->const_data_ptr(),
        .dy = nullptr,
        .out = projected.at(row),
        .channels = sizes_.head_dim,
        .x_stride = sizes_.head_dim,
        .dy_stride = 0,
        .eps = in_.head_norm_eps};
    rms_norm_rows(task, 0, heads);
  }
  if (!in_.inverse_frequencies) {
    return projected.at(row);
  }
  const RotaryHeads task{
      .dtype = layer_.dtype(),
      .x = projected.data(),
      .y = turned.data(),
      .positions = positions_.data(),
      .frequencies = frequencies_.data(),
      .pairs = static_cast<std::int64_t>(frequencies_.size()),
      .num_heads = heads,
      .head_dim = sizes_.head_dim,
      .token_stride = heads * sizes_.head_dim,
      .head_stride = sizes_.head_dim,
      .attention_factor = in_.attention_factor,
      .interleaved = in_.interleaved};
  rotary_tokens(task, row, row + 1);
  return turned.at(row);
}

template <class T>
void AttentionStep::set_query(std::int64_t row) {
  const auto* q =
      static_cast<const T*>(turned_heads(row, sizes_.heads, in_.q_norm_weight_P, q_, turned_q_));
  for (std::int64_t head = 0; head < sizes_.heads; ++head) {
    pieces_.set_query(row, head, q + head * sizes_.head_dim, in_.softmax_scale);
  }
}

void AttentionStep::write(std::int64_t row) const {
  const std::int64_t bytes =
      k_.channels() * static_cast<std::int64_t>(c10::elementSize(layer_.dtype()));
  const auto* key = static_cast<const char*>(
      turned_heads(row, sizes_.key_heads, in_.k_norm_weight_P, k_, turned_k_));
  std::copy_n(key, bytes, places_[row].key);
  std::copy_n(static_cast<const char*>(v_.at(row)), bytes, places_[row].value);
}

namespace {

/// What is not fp32 or bf16 throughout, has too many rows or lies apart takes the operators one by
/// one.
at::Tensor step(const AttentionStepInputs& in, const AttentionStepCache& cache) {
  const AttentionStepSizes sizes = checked_attention_step(in, cache);
  if (!AttentionStep::takes(in, cache)) {
    StepChain::run();
    return attention_step_by_operators_(in, cache);
  }
  auto step = std::make_unique<AttentionStep>(in, cache, sizes);
  at::Tensor out = step->out();
  run_step(std::move(step));
  return out;
}

} // namespace

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("attention_step_", &attention_step_kernel<step>);
}

} // namespace baton::ops::cpu
