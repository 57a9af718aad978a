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

/// The value of a variable, or none if it is unset or empty.
std::optional<std::string> read_env(const EnvVariable& variable);

/// All of them, in the order of the reference.
const std::vector<EnvVariable>& env_variables();

/// A Markdown table of name, default and meaning.
std::string print_env_reference();

} // namespace baton
