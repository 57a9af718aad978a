// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/slots.h"

#include <algorithm>

#include <ATen/ATen.h>

namespace baton::ops {

void check_slots(const char* name, const at::Tensor& slots, const c10::SymInt& count) {
  TORCH_CHECK(
      slots.dim() == 1 && slots.scalar_type() == at::kInt && slots.sym_size(0) == count,
      name,
      " must be int32 with one entry a sequence (",
      count,
      "), got ",
      slots.scalar_type(),
      " ",
      slots.sym_sizes());
}

void check_dense_slots(const at::Tensor& states) {
  std::int64_t values = 1; // of the dims behind this one
  for (std::int64_t dim = states.dim() - 1; dim > 0; --dim) {
    TORCH_CHECK(
        states.numel() == 0 || states.size(dim) == 1 || states.stride(dim) == values,
        "states must be dense within a slot: strides ",
        states.strides());
    values *= states.size(dim);
  }
}

std::vector<std::int32_t> checked_slots(const at::Tensor& slots, std::int64_t num_slots) {
  const at::Tensor host = slots.cpu().contiguous();
  const auto* data = host.const_data_ptr<std::int32_t>();
  std::vector<std::int32_t> found(data, data + host.numel());
  for (const std::int32_t slot : found) {
    TORCH_CHECK(
        slot >= -1 && slot < num_slots,
        "state slots must be -1 (none) or below the number of slots (",
        num_slots,
        "), got ",
        slot);
  }
  return found;
}

std::vector<std::int32_t> checked_distinct_slots(const at::Tensor& slots, std::int64_t num_slots) {
  std::vector<std::int32_t> found = checked_slots(slots, num_slots);
  std::vector<std::int32_t> sorted = found;
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    TORCH_CHECK(
        sorted[i] == -1 || sorted[i] != sorted[i - 1],
        "two sequences must not write the same state slot: ",
        sorted[i]);
  }
  return found;
}

} // namespace baton::ops
