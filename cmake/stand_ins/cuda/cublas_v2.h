// SPDX-License-Identifier: Apache-2.0
// What torch's headers of its NCCL group name of cuBLAS, whose own headers come with a toolkit or
// with wheels that a build does not need. Torch passes these on only; nothing here is ever called.
#pragma once

using cublasHandle_t = struct cublasContext*;
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0 };
