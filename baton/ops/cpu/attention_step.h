// SPDX-License-Identifier: Apache-2.0
// An attention layer's step on the CPU: norm, products, heads, attention, product and addition as
// phases of one parallel region.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/ops/attention_step.h"
#include "baton/ops/cpu/layer_step.h"
#include "baton/ops/cpu/paged_pieces.h"
#include "baton/ops/cpu/phased_step.h"

namespace baton::ops::cpu {

/// Has all that its phases touch. Values of hidden are read by the phases alone; pages' tables and
/// positions are read, and checked, by the constructor.
class AttentionStep final : public PhasedStep {
 public:
  AttentionStep(
      const AttentionStepInputs& in,
      const AttentionStepCache& cache,
      const AttentionStepSizes& sizes);

  /// Whether rows, parameters and pages are such that this way is open to them.
  static bool takes(const AttentionStepInputs& in, const AttentionStepCache& cache);

  std::vector<Phase> phases() override;
  const at::Tensor& out() const { return layer_.out(); }

 private:
  /// Where a token's key and value belong.
  struct Place {
    char* key;
    char* value;
  };

  PagedSequences make_sequences();
  Phase products();
  void run_product(std::int64_t item, const float* x_BD) const;
  void run_heads(std::int64_t item);
  const void* turned_heads(
      std::int64_t row,
      std::int64_t heads,
      const std::optional<at::Tensor>& norm_weight_P,
      const StepRows& projected,
      const StepRows& turned) const;
  template <class T>
  void set_query(std::int64_t row);
  void write(std::int64_t row) const;

  AttentionStepInputs in_;
  AttentionStepCache cache_;
  AttentionStepSizes sizes_;
  StepRoom room_;
  LayerStep layer_;
  std::vector<std::int64_t> positions_;
  std::vector<Place> places_;
  std::vector<double> frequencies_;
  PagedPieces<float> pieces_;
  StepRows q_;
  StepRows k_;
  StepRows v_;
  StepRows turned_q_;
  StepRows turned_k_;
  StepRows attended_;
  MatvecTask q_product_;
  MatvecTask k_product_;
  MatvecTask v_product_;
  MatvecTask out_product_;
};

} // namespace baton::ops::cpu
