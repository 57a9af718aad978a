// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/write_slots.h"

#include <cstdint>
#include <vector>

#include <ATen/ATen.h>
#include <torch/library.h>

#include "baton/ops/forward_only.h"
#include "baton/ops/slots.h"

namespace baton::ops {
namespace {

using Signature = void(const at::Tensor&, const at::Tensor&, const at::Tensor&);

void write_slots_meta(
    const at::Tensor& cache,
    const at::Tensor& slots_B,
    const at::Tensor& values) {
  check_write_slots(cache, slots_B, values);
}

void write_slots_cpu(const at::Tensor& cache, const at::Tensor& slots_B, const at::Tensor& values) {
  check_write_slots(cache, slots_B, values);
  const std::vector<std::int32_t> slots = checked_distinct_slots(slots_B, cache.size(0));
  for (std::size_t b = 0; b < slots.size(); ++b) {
    if (slots[b] >= 0) {
      cache.select(0, slots[b]).copy_(values.select(0, static_cast<std::int64_t>(b)));
    }
  }
}

} // namespace

void check_write_slots(
    const at::Tensor& cache,
    const at::Tensor& slots_B,
    const at::Tensor& values) {
  TORCH_CHECK(
      cache.dim() >= 1 && values.dim() == cache.dim() && slots_B.dim() == 1 &&
          slots_B.scalar_type() == at::kInt && slots_B.sym_size(0) == values.sym_size(0) &&
          values.sym_sizes().slice(1) == cache.sym_sizes().slice(1),
      "write_slots_ takes cache [S, ...], slots int32 [B], values [B, ...], got ",
      cache.sym_sizes(),
      ", ",
      slots_B.sym_sizes(),
      ", ",
      values.sym_sizes());
}

void write_slots_(const at::Tensor& cache, const at::Tensor& slots_B, const at::Tensor& values) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("baton::write_slots_", "").typed<Signature>();
  op.call(cache, slots_B, values);
}

TORCH_LIBRARY_FRAGMENT(baton, library) {
  library.def(
      "write_slots_(Tensor(a!) cache, Tensor slots, Tensor values) -> ()",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(baton, Autograd, library) {
  library.impl("write_slots_", torch::CppFunction::makeFromBoxedFunction<&run_forward_only>());
}

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("write_slots_", write_slots_cpu);
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("write_slots_", write_slots_meta);
}

} // namespace baton::ops
