// SPDX-License-Identifier: Apache-2.0
// For tests: small models in fp64, and what they work on.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/ATen.h>

#include "baton/base/random.h"
#include "baton/model/config.h"

namespace baton::model {

/// Sizes of which few divide by anything. `heads` are those of mixers and of queries, `groups`
/// those of mixers and the heads of keys.
inline ModelConfig
example_config(const std::string& pattern, std::int64_t heads, std::int64_t groups) {
  ModelConfig config;
  config.pattern = pattern;
  config.width = 20;
  config.vocabulary = 23;
  config.dtype = "fp64";
  config.dropout = 0.1;
  config.start_deviation = 0.2;
  config.mamba.num_heads = heads;
  config.mamba.head_dim = 5;
  config.mamba.num_groups = groups;
  config.mamba.state_size = 7;
  config.attention.num_heads = heads;
  config.attention.num_kv_heads = groups;
  config.attention.head_dim = 6;
  config.attention.rotary.fraction = 0.7;
  config.mlp.hidden = 29;
  return config;
}

/// int64 [count], below `vocabulary`.
inline at::Tensor random_ids(std::uint64_t key, std::int64_t count, std::int64_t vocabulary) {
  return uniform(RandomKey(key), {count}, 0.0, static_cast<double>(vocabulary))
      .floor()
      .to(at::kLong);
}

} // namespace baton::model
