// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/write_slots.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include "baton/ops/row_checks.h"

namespace baton::ops {
namespace {

using Signature = void(const at::Tensor&, const at::Tensor&, const at::Tensor&);

void check(const at::Tensor& cache, const at::Tensor& slots_B, const at::Tensor& values) {
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

void write_slots_meta(const at::Tensor& cache, const at::Tensor& slots_B, const at::Tensor& values) {
  check(cache, slots_B, values);
}

void write_slots_cpu(const at::Tensor& cache, const at::Tensor& slots_B, const at::Tensor& values) {
  check(cache, slots_B, values);
  const at::Tensor slots = slots_B.contiguous();
  const auto* slot = slots.const_data_ptr<std::int32_t>();
  for (std::int64_t b = 0; b < slots.size(0); ++b) {
    TORCH_CHECK(
        slot[b] >= -1 && slot[b] < cache.size(0),
        "slot ",
        slot[b],
        " is outside the cache of ",
        cache.size(0));
    if (slot[b] >= 0) {
      cache.select(0, slot[b]).copy_(values.select(0, b));
    }
  }
}

void write_slots_autograd(
    const at::Tensor& cache,
    const at::Tensor& slots_B,
    const at::Tensor& values) {
  check_no_gradient("write_slots_", cache);
  check_no_gradient("write_slots_", values);
  const at::AutoDispatchBelowADInplaceOrView below;
  write_slots_(cache, slots_B, values);
}

} // namespace

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
  library.impl("write_slots_", write_slots_autograd);
}

TORCH_LIBRARY_IMPL(baton, CPU, library) {
  library.impl("write_slots_", write_slots_cpu);
}

TORCH_LIBRARY_IMPL(baton, Meta, library) {
  library.impl("write_slots_", write_slots_meta);
}

} // namespace baton::ops
