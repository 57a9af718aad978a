// SPDX-License-Identifier: Apache-2.0
// States as data: what a layer keeps between calls, so that a cache can allocate it unasked.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

namespace baton::nn {

enum class StateKind {
  kFixedSlot,    ///< one block of `shape` a sequence: a tensor [slots, shape...]
  kGrowsByToken, ///< one block of `shape` a token, in pages: a tensor [pages, page_size, shape...]
};

/// One state tensor of one layer.
struct StateSpec {
  std::string name;                ///< "layers.3.mixer.ssm"
  std::vector<std::int64_t> shape; ///< per slot, or per token
  at::ScalarType dtype = at::kFloat;
  StateKind kind = StateKind::kFixedSlot;
  std::int64_t snapshot_grid = 1; ///< a copy may be taken at multiples of this many tokens
};

/// The state tensors that a forward pass reads and writes in place.
struct CacheView {
  std::unordered_map<std::string, at::Tensor> tensors; ///< by StateSpec::name
  at::Tensor page_table_BM;   ///< int32: page numbers of each sequence of the layout, in order
  std::int64_t page_size = 0; ///< tokens a page

  const at::Tensor& at(const std::string& name) const;
};

} // namespace baton::nn
