// SPDX-License-Identifier: Apache-2.0
// As cublas_v2.h beside it, for cuBLASLt.
#pragma once

using cublasLtHandle_t = struct cublasLtContext*;
