// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda_kernels.h"

#include <string>

#include <c10/util/Exception.h>

#include "baton/ops/cuda_kernels_attend.h"
#include "baton/ops/cuda_kernels_conv.h"
#include "baton/ops/cuda_kernels_embedding.h"
#include "baton/ops/cuda_kernels_flat.h"
#include "baton/ops/cuda_kernels_rows.h"
#include "baton/ops/cuda_kernels_ssd.h"
#include "baton/ops/cuda_kernels_ssd_backward.h"
#include "baton/ops/cuda_kernels_ssd_hopper.h"

namespace baton::ops {
namespace {

constexpr std::int64_t kPackBytes = 16;

} // namespace

std::string cuda_type_name(c10::ScalarType type) {
  switch (type) {
    case c10::ScalarType::Double:
      return "double";
    case c10::ScalarType::Float:
      return "float";
    case c10::ScalarType::BFloat16:
      return "__nv_bfloat16";
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(false, "no CUDA kernels for ", type);
  }
}

std::int64_t widest_pack(c10::ScalarType activation) {
  return kPackBytes / static_cast<std::int64_t>(c10::elementSize(activation));
}

bool KernelBudget::serves(const KernelModel& model) const {
  const auto takes = [&](c10::ScalarType type) {
    return spec.entry.find(cuda_type_name(type)) != std::string::npos;
  };
  const bool of_its_types =
      model.dtype == c10::ScalarType::Double
          ? !takes(c10::ScalarType::Float) && !takes(c10::ScalarType::BFloat16)
          : !takes(c10::ScalarType::Double) &&
                (model.dtype == c10::ScalarType::BFloat16 || !takes(c10::ScalarType::BFloat16));
  return of_its_types && (!sizes_serve || sizes_serve(model));
}

std::vector<KernelBudget> all_kernels() {
  std::vector<KernelBudget> kernels;
  add_row_kernels(kernels);
  add_attend_kernels(kernels);
  add_embedding_kernels(kernels);
  add_ssd_kernels(kernels);
  add_ssd_backward_kernels(kernels);
  add_ssd_hopper_kernels(kernels);
  add_conv_kernels(kernels);
  add_flat_kernels(kernels);
  return kernels;
}

} // namespace baton::ops
