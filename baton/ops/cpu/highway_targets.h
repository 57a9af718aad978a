// SPDX-License-Identifier: Apache-2.0
// Which instruction sets the CPU kernels are compiled for. Included before any Highway header.
#pragma once

// SSSE3 without SSE4 names no machine that runs a recent libtorch; leaving it out saves a quarter
// of the compile time. SSE4, AVX2, AVX-512 and the portable fallback remain; with the sanitizers,
// which take several times as long to compile, AVX2 and the fallback.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS HWY_SSSE3
#endif
