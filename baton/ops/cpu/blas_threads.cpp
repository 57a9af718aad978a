// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cpu/blas_threads.h"

#include <ATen/Parallel.h>

// MKL's own declaration; libtorch_cpu exports the function where it holds MKL.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads); // NOLINT

namespace baton::ops::cpu {

OneThreadBlas::OneThreadBlas() : before_(0) {
  if (MKL_Set_Num_Threads_Local != nullptr) {
    // ATen sets a thread's numbers up at its first question for them, which would undo the next
    // line.
    at::get_num_threads();
    before_ = MKL_Set_Num_Threads_Local(1);
  }
}

OneThreadBlas::~OneThreadBlas() {
  if (MKL_Set_Num_Threads_Local != nullptr) {
    MKL_Set_Num_Threads_Local(before_);
  }
}

} // namespace baton::ops::cpu
