// SPDX-License-Identifier: Apache-2.0
// Named by nccl.h, which takes nothing from it. The one of the CUDA runtime wants headers of a
// toolkit.
#pragma once
