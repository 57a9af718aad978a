// SPDX-License-Identifier: Apache-2.0
// Keeps the matrix products of a calling thread on that thread.
#pragma once

namespace baton::ops::cpu {

/// While it lives, the BLAS and oneDNN inside libtorch cut products of this thread for one thread.
///
/// A parallel region alone does not do that: `at::set_num_threads` also switches MKL's dynamic mode
/// off, and then MKL plans a product inside a region for all threads, which on AVX-512 machines
/// changes the bits of the result. A libtorch whose BLAS is not MKL is left as it is.
class OneThreadBlas {
 public:
  OneThreadBlas();
  ~OneThreadBlas();
  OneThreadBlas(const OneThreadBlas&) = delete;
  OneThreadBlas& operator=(const OneThreadBlas&) = delete;

 private:
  // The thread's own numbers before; MKL's 0 stands for none.
  int mkl_before_ = 0;
  int omp_before_ = 1;
};

} // namespace baton::ops::cpu
