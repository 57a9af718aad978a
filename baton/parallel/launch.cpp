// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/launch.h"

#include <charconv>

#include "baton/base/error.h"

namespace baton::parallel {
namespace {

using Read = std::function<std::optional<std::string>(const EnvVariable&)>;

std::int64_t parse_number(
    const EnvVariable& variable,
    const std::string& text,
    std::int64_t least,
    std::int64_t most) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < least || value > most) {
    throw Error(
        std::string(variable.name) + " must be a whole number from " + std::to_string(least) +
        " to " + std::to_string(most) + ", got \"" + text + "\"");
  }
  return value;
}

std::string needed(const Read& read, const EnvVariable& variable, const EnvVariable& because) {
  std::optional<std::string> text = read(variable);
  if (!text) {
    throw Error(
        std::string(variable.name) + " is not set, though " + because.name +
        " is: a launcher sets both");
  }
  return *text;
}

constexpr std::int64_t kMostRanks = 1 << 24;

void read_place(
    Launch& launch,
    const Read& read,
    const EnvVariable& rank,
    const EnvVariable& size,
    const EnvVariable& local_rank) {
  launch.world_size = static_cast<int>(parse_number(size, needed(read, size, rank), 1, kMostRanks));
  launch.rank = static_cast<int>(
      parse_number(rank, needed(read, rank, size), 0, std::int64_t{launch.world_size} - 1));
  const std::optional<std::string> local = read(local_rank);
  if (!local && launch.world_size > 1) {
    needed(read, local_rank, rank);
  }
  launch.local_rank =
      local ? static_cast<int>(parse_number(local_rank, *local, 0, launch.rank)) : 0;
}

} // namespace

std::string first_host(const std::string& list) {
  const std::size_t open = list.find('[');
  const std::size_t comma = list.find(',');
  if (open == std::string::npos || comma < open) {
    return list.substr(0, comma);
  }
  const std::size_t end = list.find_first_of("-,]", open);
  if (end == std::string::npos) {
    throw Error("a list of hosts has no closing bracket: \"" + list + "\"");
  }
  const std::size_t close = list.find(']', open);
  const std::size_t next = close == std::string::npos ? close : list.find(',', close);
  const std::string behind =
      close == std::string::npos
          ? ""
          : list.substr(close + 1, next == std::string::npos ? next : next - close - 1);
  return list.substr(0, open) + list.substr(open + 1, end - open - 1) + behind;
}

Launch read_launch(const Read& read) {
  Launch launch;
  if (read(kEnvRank) || read(kEnvWorldSize)) {
    launch.launcher = "torchrun";
    read_place(launch, read, kEnvRank, kEnvWorldSize, kEnvLocalRank);
    launch.agent_store = read(kEnvAgentStore).value_or("") == "True";
    if (const auto restart = read(kEnvRestartCount)) {
      launch.restart = static_cast<int>(parse_number(kEnvRestartCount, *restart, 0, 1 << 30));
    }
  } else if (read(kEnvSlurmStep) && read(kEnvSlurmRank)) {
    // Without a step the variables are those of a batch script, which is one process.
    launch.launcher = "Slurm";
    read_place(launch, read, kEnvSlurmRank, kEnvSlurmSize, kEnvSlurmLocalRank);
    if (const auto hosts = read(kEnvSlurmHosts)) {
      launch.address = first_host(*hosts);
    }
  } else if (read(kEnvOpenMpiRank)) {
    launch.launcher = "Open MPI";
    read_place(launch, read, kEnvOpenMpiRank, kEnvOpenMpiSize, kEnvOpenMpiLocalRank);
  } else if (read(kEnvPmiRank)) {
    launch.launcher = "PMI";
    read_place(launch, read, kEnvPmiRank, kEnvPmiSize, kEnvPmiLocalRank);
  }
  if (const auto address = read(kEnvMasterAddress)) {
    launch.address = *address;
  }
  if (const auto port = read(kEnvMasterPort)) {
    launch.port = static_cast<std::uint16_t>(parse_number(kEnvMasterPort, *port, 1, 65535));
  }
  return launch;
}

Launch read_launch() {
  return read_launch([](const EnvVariable& variable) { return read_env(variable); });
}

} // namespace baton::parallel
