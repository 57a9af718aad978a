// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/blas_threads.h"

#include <ATen/Parallel.h>

// MKL's own declaration; libtorch_cpu exports the function where it holds MKL.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads); // NOLINT
// Those of the OpenMP that libtorch_cpu brings, which oneDNN asks. A build without OpenMP (clang's)
// has no parallel region that would tell oneDNN to keep to one thread.
extern "C" __attribute__((weak)) int omp_get_max_threads();
extern "C" __attribute__((weak)) void omp_set_num_threads(int threads);

namespace baton::ops::cpu {

OneThreadBlas::OneThreadBlas() {
  if (MKL_Set_Num_Threads_Local != nullptr) {
    // ATen sets a thread's numbers up at its first question for them, which would undo the next
    // line.
    at::get_num_threads();
    mkl_before_ = MKL_Set_Num_Threads_Local(1);
  }
  if (omp_set_num_threads != nullptr) {
    omp_before_ = omp_get_max_threads();
    omp_set_num_threads(1);
  }
}

OneThreadBlas::~OneThreadBlas() {
  if (omp_set_num_threads != nullptr) {
    omp_set_num_threads(omp_before_);
  }
  if (MKL_Set_Num_Threads_Local != nullptr) {
    MKL_Set_Num_Threads_Local(mkl_before_);
  }
}

} // namespace baton::ops::cpu
