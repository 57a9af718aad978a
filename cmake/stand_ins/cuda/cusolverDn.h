// SPDX-License-Identifier: Apache-2.0
// As cublas_v2.h beside it, for cuSOLVER's dense half.
#pragma once

#include <cusolver_common.h>

using cusolverDnHandle_t = struct cusolverDnContext*;
