// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/launch.h"

#include <map>
#include <string>

#include <gtest/gtest.h>

#include "baton/base/error.h"

namespace baton::parallel {
namespace {

Launch read_from(const std::map<std::string, std::string>& variables) {
  return read_launch([&](const EnvVariable& variable) -> std::optional<std::string> {
    const auto found = variables.find(variable.name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

std::string refusal_of(const std::map<std::string, std::string>& variables) {
  try {
    read_from(variables);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Launch, OneRankWithoutALauncher) {
  const Launch launch = read_from({});
  EXPECT_EQ(launch.launcher, "none");
  EXPECT_EQ(launch.world_size, 1);
  EXPECT_EQ(launch.rank, 0);
}

TEST(Launch, ReadsTorchrun) {
  const Launch launch = read_from(
      {{"RANK", "5"},
       {"WORLD_SIZE", "8"},
       {"LOCAL_RANK", "1"},
       {"MASTER_ADDR", "head"},
       {"MASTER_PORT", "1234"},
       {"TORCHELASTIC_USE_AGENT_STORE", "True"},
       {"TORCHELASTIC_RESTART_COUNT", "3"}});
  EXPECT_EQ(launch.launcher, "torchrun");
  EXPECT_EQ(launch.rank, 5);
  EXPECT_EQ(launch.world_size, 8);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.address, "head");
  EXPECT_EQ(launch.port, 1234);
  EXPECT_TRUE(launch.agent_store);
  EXPECT_EQ(launch.restart, 3);
}

TEST(Launch, ReadsSlurmInsideAStepOnly) {
  std::map<std::string, std::string> variables{
      {"SLURM_PROCID", "3"},
      {"SLURM_STEP_NUM_TASKS", "4"},
      {"SLURM_LOCALID", "1"},
      {"SLURM_STEP_NODELIST", "gpu[08-09]"}};
  EXPECT_EQ(read_from(variables).launcher, "none");
  variables["SLURM_STEP_ID"] = "0";
  const Launch launch = read_from(variables);
  EXPECT_EQ(launch.launcher, "Slurm");
  EXPECT_EQ(launch.rank, 3);
  EXPECT_EQ(launch.world_size, 4);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.address, "gpu08");
}

TEST(Launch, ReadsMpi) {
  const Launch open_mpi = read_from(
      {{"OMPI_COMM_WORLD_RANK", "1"},
       {"OMPI_COMM_WORLD_SIZE", "2"},
       {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}});
  EXPECT_EQ(open_mpi.launcher, "Open MPI");
  EXPECT_EQ(open_mpi.rank, 1);
  const Launch pmi = read_from({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "0"}});
  EXPECT_EQ(pmi.launcher, "PMI");
  EXPECT_EQ(pmi.world_size, 2);
}

TEST(Launch, RefusesWhatIsMissingOrWrongByName) {
  EXPECT_EQ(
      refusal_of({{"RANK", "1"}}), "WORLD_SIZE is not set, though RANK is: a launcher sets both");
  EXPECT_EQ(
      refusal_of({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "0"}}),
      "RANK must be a whole number from 0 to 1, got \"2\"");
  EXPECT_EQ(
      refusal_of({{"RANK", "0"}, {"WORLD_SIZE", "two"}}),
      "WORLD_SIZE must be a whole number from 1 to 16777216, got \"two\"");
  EXPECT_EQ(
      refusal_of({{"MASTER_PORT", "70000"}}),
      "MASTER_PORT must be a whole number from 1 to 65535, got \"70000\"");
}

TEST(Launch, FirstHostOfASlurmList) {
  EXPECT_EQ(first_host("one"), "one");
  EXPECT_EQ(first_host("one,two"), "one");
  EXPECT_EQ(first_host("node[007-009,12],other"), "node007");
  EXPECT_EQ(first_host("node[3]-ib,node[4]-ib"), "node3-ib");
  EXPECT_EQ(first_host("a,b[1-2]"), "a");
  EXPECT_THROW(first_host("node[3"), Error);
}

} // namespace
} // namespace baton::parallel
