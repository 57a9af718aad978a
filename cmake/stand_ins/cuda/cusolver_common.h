// SPDX-License-Identifier: Apache-2.0
// As cublas_v2.h beside it, for cuSOLVER.
#pragma once

enum cusolverStatus_t { CUSOLVER_STATUS_SUCCESS = 0 };
