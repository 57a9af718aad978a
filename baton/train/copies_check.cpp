// SPDX-License-Identifier: Apache-2.0
#include "baton/train/copies_check.h"

#include <vector>

#include "baton/parallel/replica_check.h"

namespace baton::train {

void check_copies(const model::HybridModel& model, const parallel::Mesh& mesh) {
  const parallel::Group& replicas = mesh.replicas();
  const parallel::Group& tensor_ranks = mesh.along(parallel::Axis::kTensor);
  std::vector<parallel::Copy> all;
  std::vector<parallel::Copy> shared;
  for (const nn::Parameter& parameter : model.parameters().parameters()) {
    const at::Tensor value = parameter.value.detach();
    all.push_back({parameter.spec.name, value, replicas.size()});
    for (const nn::ParameterPiece& piece : model.parameters().pieces_of(parameter.spec)) {
      if (piece.holders > 1) {
        shared.push_back({parameter.spec.name, piece.of(value), piece.holders});
      }
    }
  }
  parallel::check_copies(replicas, all);
  parallel::check_copies(tensor_ranks, shared);
  if (const nn::Parameter* matrix = model.shared_matrix()) {
    const parallel::PipelineLinks& links = mesh.pipeline_links();
    parallel::check_copies(
        model.holds_first_stage() ? links.activations_in : links.activations_out,
        {{matrix->spec.name, matrix->value.detach(), 2}});
  }
}

} // namespace baton::train
