// SPDX-License-Identifier: Apache-2.0
// As cublas_v2.h beside it, for cuSPARSE.
#pragma once

using cusparseHandle_t = struct cusparseContext*;
enum cusparseStatus_t { CUSPARSE_STATUS_SUCCESS = 0 };
