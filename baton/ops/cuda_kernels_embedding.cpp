// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_kernels_embedding.h"

#include <string>

namespace baton::ops {

EmbeddingKernels embedding_kernels(c10::ScalarType type, std::int64_t pack) {
  const std::string source = "baton/ops/cuda/embedding.cu";
  const std::string of = "<" + cuda_type_name(type) + ", " + std::to_string(pack) + ">";
  return {
      {source, "baton::embedding_chunks" + of, {}}, {source, "baton::embedding_joins" + of, {}}};
}

void add_embedding_kernels(std::vector<KernelBudget>& kernels) {
  constexpr int kForFewerBlocks = 64; // registers with which four blocks share a multiprocessor
  for (const auto type :
       {c10::ScalarType::Double, c10::ScalarType::Float, c10::ScalarType::BFloat16}) {
    for (const std::int64_t pack : {std::int64_t{1}, widest_pack(type)}) {
      const EmbeddingKernels embedding = embedding_kernels(type, pack);
      kernels.push_back({embedding.chunks, kForFewerBlocks});
      kernels.push_back({embedding.joins, kForFewerBlocks});
    }
  }
}

} // namespace baton::ops
