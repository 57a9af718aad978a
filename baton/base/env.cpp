// SPDX-License-Identifier: Apache-2.0
#include "baton/base/env.h"

#include <cstdlib>

namespace baton {

std::optional<std::string> read_env(const EnvVariable& variable) {
  const char* value = std::getenv(variable.name);
  if (value == nullptr || *value == '\0') {
    return std::nullopt;
  }
  return std::string(value);
}

const std::vector<EnvVariable>& env_variables() {
  static const std::vector<EnvVariable> variables = {
      kEnvLog,           kEnvProgress,         kEnvThreads,          kEnvWaitPolicy,
      kEnvKernelCache,   kEnvKernelCacheBytes, kEnvCudaHome,         kEnvCublasWorkspace,
      kEnvTorchMemory,   kEnvTorchCudaMemory,  kEnvUserCache,        kEnvHome,
      kEnvRank,          kEnvWorldSize,        kEnvLocalRank,        kEnvMasterAddress,
      kEnvMasterPort,    kEnvAgentStore,       kEnvRestartCount,     kEnvSlurmStep,
      kEnvSlurmRank,     kEnvSlurmSize,        kEnvSlurmLocalRank,   kEnvSlurmHosts,
      kEnvOpenMpiRank,   kEnvOpenMpiSize,      kEnvOpenMpiLocalRank, kEnvPmiRank,
      kEnvPmiSize,       kEnvPmiLocalRank,     kEnvGlooInterface,    kEnvTorchLog,
      kEnvNcclAlgorithm, kEnvNcclMulticast,    kEnvNcclErrors,       kEnvNcclMonitoring,
      kEnvNcclDump,      kEnvNcclDumpWait,     kEnvNcclRethrow,      kEnvFlightRecorder};
  return variables;
}

std::string print_env_reference() {
  std::string table = "| variable | default | meaning |\n|---|---|---|\n";
  for (const EnvVariable& variable : env_variables()) {
    table += std::string("| `") + variable.name + "` | " + variable.default_text + " | " +
             variable.meaning + " |\n";
  }
  return table;
}

} // namespace baton
