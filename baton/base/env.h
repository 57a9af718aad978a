// SPDX-License-Identifier: Apache-2.0
// Every environment variable that Baton reads, in one table.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace baton {

/// A variable of the environment and what it does.
struct EnvVariable {
  const char* name;
  const char* default_text; ///< what an unset variable means
  const char* meaning;
};

inline constexpr EnvVariable kEnvLog = {
    "BATON_LOG",
    "info",
    "least level of messages on stderr: debug, info, warning or error"};
inline constexpr EnvVariable kEnvProgress = {
    "BATON_PROGRESS",
    "line on a terminal, otherwise lines",
    "progress of long work: line (one that is rewritten), lines (one now and then) or off"};
inline constexpr EnvVariable kEnvThreads = {
    "OMP_NUM_THREADS",
    "one per core",
    "threads of the CPU operators; read by the OpenMP runtime"};
inline constexpr EnvVariable kEnvWaitPolicy = {
    "OMP_WAIT_POLICY",
    "threads that wait look for work for some milliseconds",
    "passive: they leave their core at once, for a machine that other programs use too"};

inline constexpr EnvVariable kEnvKernelCache = {
    "BATON_KERNEL_CACHE",
    "baton/kernels in $XDG_CACHE_HOME, or in $HOME/.cache",
    "folder of compiled GPU kernels, shared by all ranks and hosts that name it"};
inline constexpr EnvVariable kEnvKernelCacheBytes = {
    "BATON_KERNEL_CACHE_BYTES",
    "2147483648",
    "bytes that folder may hold; the kernels used longest ago go first"};
inline constexpr EnvVariable kEnvCudaHome = {
    "CUDA_HOME",
    "wherever the system finds it",
    "CUDA toolkit whose kernel compiler (NVRTC) is used when no wheel brings one"};
inline constexpr EnvVariable kEnvCublasWorkspace = {
    "CUBLAS_WORKSPACE_CONFIG",
    ":4096:8 with train.deterministic",
    "memory of cuBLAS; :4096:8 and :16:8 give equal bits each time"};
inline constexpr EnvVariable kEnvTorchMemory = {
    "PYTORCH_ALLOC_CONF",
    "expandable_segments:True",
    "how PyTorch's allocator cuts a GPU's memory"};
inline constexpr EnvVariable kEnvTorchCudaMemory = {
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "older name of PYTORCH_ALLOC_CONF"};
inline constexpr EnvVariable kEnvUserCache = {
    "XDG_CACHE_HOME",
    "$HOME/.cache",
    "where caches of this user are kept"};
inline constexpr EnvVariable kEnvHome = {
    "HOME",
    "none: compiled kernels stay in memory",
    "home folder of this user"};

// What a launcher tells each process, as torchrun names it.
inline constexpr EnvVariable kEnvRank = {
    "RANK",
    "the launcher's, else 0",
    "number of this process among those of a run, from 0"};
inline constexpr EnvVariable kEnvWorldSize = {
    "WORLD_SIZE",
    "the launcher's, else 1",
    "processes of a run"};
inline constexpr EnvVariable kEnvLocalRank = {
    "LOCAL_RANK",
    "the launcher's, else 0",
    "number of this process on its host; run.device = cuda takes the GPU of this number"};
inline constexpr EnvVariable kEnvMasterAddress = {
    "MASTER_ADDR",
    "Slurm's first host, else 127.0.0.1",
    "host where the ranks of a run meet"};
inline constexpr EnvVariable kEnvMasterPort = {
    "MASTER_PORT",
    "29500",
    "port where the ranks of a run meet"};
inline constexpr EnvVariable kEnvAgentStore = {
    "TORCHELASTIC_USE_AGENT_STORE",
    "rank 0 serves it",
    "True: torchrun itself serves the store where ranks meet"};
inline constexpr EnvVariable kEnvRestartCount = {
    "TORCHELASTIC_RESTART_COUNT",
    "0",
    "how often torchrun has restarted the run"};
inline constexpr EnvVariable kEnvSlurmStep = {
    "SLURM_STEP_ID",
    "not under srun",
    "set by srun: then SLURM_PROCID and the like count"};
inline constexpr EnvVariable kEnvSlurmRank = {"SLURM_PROCID", "none", "RANK under srun"};
inline constexpr EnvVariable kEnvSlurmSize = {
    "SLURM_STEP_NUM_TASKS",
    "none",
    "WORLD_SIZE under srun"};
inline constexpr EnvVariable kEnvSlurmLocalRank = {
    "SLURM_LOCALID",
    "none",
    "LOCAL_RANK under srun"};
inline constexpr EnvVariable kEnvSlurmHosts = {
    "SLURM_STEP_NODELIST",
    "none",
    "hosts of a Slurm step; the first is MASTER_ADDR"};
inline constexpr EnvVariable kEnvOpenMpiRank = {
    "OMPI_COMM_WORLD_RANK",
    "none",
    "RANK under Open MPI's mpirun"};
inline constexpr EnvVariable kEnvOpenMpiSize = {
    "OMPI_COMM_WORLD_SIZE",
    "none",
    "WORLD_SIZE under Open MPI's mpirun"};
inline constexpr EnvVariable kEnvOpenMpiLocalRank = {
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "none",
    "LOCAL_RANK under Open MPI's mpirun"};
inline constexpr EnvVariable kEnvPmiRank = {"PMI_RANK", "none", "RANK under MPICH and its kin"};
inline constexpr EnvVariable kEnvPmiSize = {
    "PMI_SIZE",
    "none",
    "WORLD_SIZE under MPICH and its kin"};
inline constexpr EnvVariable kEnvPmiLocalRank = {
    "MPI_LOCALRANKID",
    "none",
    "LOCAL_RANK under MPICH and its kin"};
inline constexpr EnvVariable kEnvGlooInterface = {
    "GLOO_SOCKET_IFNAME",
    "the host name's",
    "network interface by which ranks on CPUs talk"};
inline constexpr EnvVariable kEnvTorchLog = {
    "TORCH_CPP_LOG_LEVEL",
    "FATAL in a run of several ranks",
    "least level of PyTorch's own messages: INFO, WARNING, ERROR or FATAL"};

// Read by NCCL and by torch's group over it, and set by Baton unless they are set.
inline constexpr EnvVariable kEnvNcclAlgorithm = {
    "NCCL_ALGO",
    "Ring with train.deterministic",
    "how ranks on GPUs add up; a ring gives equal bits each time"};
inline constexpr EnvVariable kEnvNcclMulticast = {
    "NCCL_NVLS_ENABLE",
    "0 with train.deterministic",
    "1: sums in the NVLink switch, which no ring uses; 0: none"};
inline constexpr EnvVariable kEnvNcclErrors = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "0",
    "what PyTorch does when a rank is lost; 0: nothing, as Baton names the rank and stops"};
inline constexpr EnvVariable kEnvNcclMonitoring = {
    "TORCH_NCCL_ENABLE_MONITORING",
    "0",
    "1: PyTorch aborts a process whose GPU hangs for minutes"};
inline constexpr EnvVariable kEnvNcclDump = {
    "TORCH_NCCL_DUMP_ON_TIMEOUT",
    "0",
    "1: PyTorch writes its record of collectives when one fails"};
inline constexpr EnvVariable kEnvNcclDumpWait = {
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC",
    "250",
    "milliseconds for which PyTorch waits for that record"};
inline constexpr EnvVariable kEnvNcclRethrow = {
    "TORCH_NCCL_RETHROW_CUDA_ERRORS",
    "0",
    "1: PyTorch's thread that watches NCCL aborts at an error of CUDA"};
inline constexpr EnvVariable kEnvFlightRecorder = {
    "TORCH_FR_BUFFER_SIZE",
    "0",
    "collectives that PyTorch keeps in its record"};

/// The value of a variable, or none if it is unset or empty.
std::optional<std::string> read_env(const EnvVariable& variable);

/// All of them, in the order of the reference.
const std::vector<EnvVariable>& env_variables();

/// A Markdown table of name, default and meaning.
std::string print_env_reference();

} // namespace baton
