// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/tensor_rows.h"

#include <vector>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>

namespace baton::parallel {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct KeptGroup : torch::CustomClassHolder {
  explicit KeptGroup(Group kept) : group(std::move(kept)) {}
  Group group;
};

std::vector<std::int64_t> rows_of_ranks(std::int64_t rows, int ranks) {
  std::vector<std::int64_t> counts;
  counts.reserve(static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    counts.push_back(even_share(rows, rank, ranks).count);
  }
  return counts;
}

at::Tensor gather(const at::Tensor& own_rows, std::int64_t num_rows, const Group& group) {
  return start_gather_rows(own_rows, num_rows, group).wait();
}

at::Tensor scatter(const at::Tensor& addends, const Group& group) {
  return start_scatter_rows(addends, group).wait();
}

struct GatherRows : torch::autograd::Function<GatherRows> {
  static at::Tensor forward(
      AutogradContext* saved,
      const at::Tensor& own_rows,
      std::int64_t num_rows,
      const Group& group) {
    saved->saved_data["group"] = keep_group(group);
    return gather(own_rows, num_rows, group);
  }

  static variable_list backward(AutogradContext* saved, variable_list gradients) {
    return {
        scatter(gradients[0], kept_group(saved->saved_data["group"])), at::Tensor(), at::Tensor()};
  }
};

struct ScatterRows : torch::autograd::Function<ScatterRows> {
  static at::Tensor forward(AutogradContext* saved, const at::Tensor& addends, const Group& group) {
    saved->saved_data["group"] = keep_group(group);
    saved->saved_data["rows"] = addends.size(0);
    return scatter(addends, group);
  }

  static variable_list backward(AutogradContext* saved, variable_list gradients) {
    return {
        gather(
            gradients[0],
            saved->saved_data["rows"].toInt(),
            kept_group(saved->saved_data["group"])),
        at::Tensor()};
  }
};

} // namespace

Share even_share(std::int64_t count, int rank, int ranks) {
  const std::int64_t first = count * rank / ranks;
  return {.first = first, .count = count * (rank + 1) / ranks - first};
}

c10::IValue keep_group(const Group& group) {
  return c10::IValue::make_capsule(c10::make_intrusive<KeptGroup>(group));
}

const Group& kept_group(const c10::IValue& value) {
  return static_cast<const KeptGroup&>(*value.toCapsule()).group;
}

at::Tensor RowsInFlight::wait() {
  pending_.wait();
  return sum_in_ ? received_.sum(0, false, sum_in_).to(received_.scalar_type()) : received_;
}

RowsInFlight
start_gather_rows(const at::Tensor& own_rows, std::int64_t num_rows, const Group& group) {
  const std::vector<std::int64_t> counts = rows_of_ranks(num_rows, group.size());
  TORCH_INTERNAL_ASSERT(
      own_rows.size(0) == counts[static_cast<std::size_t>(group.rank())],
      "a rank brings other rows than its own");
  std::vector<std::int64_t> shape = own_rows.sizes().vec();
  shape[0] = num_rows;
  at::Tensor all = at::empty(shape, own_rows.options());
  if (num_rows % group.size() == 0) {
    return {group.start_all_gather(own_rows.contiguous(), all), all};
  }
  const std::vector<at::Tensor> copies(counts.size(), own_rows);
  const std::vector<std::int64_t> own(counts.size(), own_rows.size(0));
  return {group.start_all_to_all(at::cat(copies), all, own, counts), all};
}

// Addends travel in their own dtype and are added here in fp32 (fp64), in the order of the ranks,
// and rounded once. In bf16 each of n addends, about 1 / sqrt(n) of the sum's size, has been
// rounded when its product was stored, and the sum is rounded once more: sqrt(2) of the error of
// the one rounding that one rank does there, whatever n. A ring that adds in bf16 on the way rounds
// n - 1 times; sending fp32 would double the bytes.
RowsInFlight start_scatter_rows(const at::Tensor& addends, const Group& group) {
  const std::vector<std::int64_t> counts = rows_of_ranks(addends.size(0), group.size());
  const std::int64_t rows = counts[static_cast<std::size_t>(group.rank())];
  const std::vector<std::int64_t> own(counts.size(), rows);
  std::vector<std::int64_t> shape = addends.sizes().vec();
  shape[0] = rows;
  shape.insert(shape.begin(), group.size());
  const at::Tensor received = at::empty(shape, addends.options());
  return {
      group.start_all_to_all(addends.contiguous(), received.flatten(0, 1), counts, own),
      received,
      at::toOpMathType(addends.scalar_type())};
}

at::Tensor gather_rows(const at::Tensor& own_rows, std::int64_t num_rows, const Group& group) {
  return group.alone() ? own_rows : GatherRows::apply(own_rows, num_rows, group);
}

at::Tensor scatter_rows(const at::Tensor& addends, const Group& group) {
  return group.alone() ? addends : ScatterRows::apply(addends, group);
}

} // namespace baton::parallel
