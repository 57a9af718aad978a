// SPDX-License-Identifier: Apache-2.0
// How a recipe divides a run among ranks.
#pragma once

#include <cstdint>
#include <string>

#include "baton/base/config.h"

namespace baton::parallel {

struct ParallelConfig {
  std::int64_t cp = 1;
  std::int64_t tp = 1;
  std::int64_t pp = 1;
  std::int64_t virtual_stages = 1;
  std::string context = "baton";
  std::string attention = "gather";
  std::int64_t timeout = 600;
  std::int64_t check_interval = 100;

  template <class V>
  void visit(V& v) {
    const Range ranks{1.0, 65536.0};
    v.field("cp", cp, "ranks that share the tokens of a microbatch (context parallelism)", ranks);
    v.field("tp", tp, "ranks that share each matrix (tensor parallelism)", ranks);
    v.field("pp", pp, "ranks that share the layers (pipeline)", ranks);
    v.field(
        "virtual_stages",
        virtual_stages,
        "parts of the layers that each pp rank holds; several make the pipeline's idle time "
        "shorter "
        "and its messages more",
        Range{1.0, 1024.0});
    v.field(
        "context",
        context,
        "how cp ranks share a mixer: baton hands its state on, all_to_all divides its heads",
        Choice{"baton", "all_to_all"});
    v.field(
        "attention",
        attention,
        "how cp ranks that hand the baton share attention: gather takes all keys at once, ring one "
        "rank's after the other",
        Choice{"gather", "ring"});
    v.field(
        "timeout",
        timeout,
        "seconds after which a rank that waits for others gives up",
        Range{1.0, 1e6});
    v.field(
        "check_interval",
        check_interval,
        "updates between checks that ranks with the same parameters hold equal bits; 0 for none",
        Range::at_least(0.0));
  }
};

} // namespace baton::parallel
