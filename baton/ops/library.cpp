// SPDX-License-Identifier: Apache-2.0
// The operator library's name in PyTorch's dispatcher. Each operator defines its schema and
// registers its kernels in its own file with TORCH_LIBRARY_FRAGMENT and TORCH_LIBRARY_IMPL.
#include <torch/library.h>

TORCH_LIBRARY(baton, library) {
  library.set_python_module("baton");
}
