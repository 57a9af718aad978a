// SPDX-License-Identifier: Apache-2.0
// Who this process is among those that a launcher started.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "baton/base/env.h"

namespace baton::parallel {

/// The place of a process in a run of several, whichever launcher started it.
struct Launch {
  std::string launcher = "none"; ///< "torchrun", "Slurm", "Open MPI", "PMI" or "none"
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;                ///< among the ranks of this host: chooses the GPU
  std::string address = "127.0.0.1"; ///< of the host that serves the store
  std::uint16_t port = 29500;
  bool agent_store = false; ///< the launcher's agent serves the store, so that no rank does
  int restart = 0;          ///< how often the launcher has restarted the run
};

/// Reads the variables of torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), of
/// Slurm, of Open MPI or of PMI, in this order; without any of them the run has one rank. Throws
/// `Error`, naming variable and value, for one that is missing, no number or out of range.
Launch read_launch();

/// The same from other variables than those of the environment.
Launch read_launch(const std::function<std::optional<std::string>(const EnvVariable&)>& read);

/// First host of a Slurm list: "node[07-09,12],other" gives "node07".
std::string first_host(const std::string& list);

} // namespace baton::parallel
