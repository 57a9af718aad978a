# SPDX-License-Identifier: Apache-2.0
# IMPORTED targets for the libtorch inside a Python wheel. PyTorch's own CMake package wants a CUDA
# toolkit and links its CUDA half into everything; these targets do neither.
set(TORCH_ROOT "" CACHE PATH "folder of an installed torch package (holds include/ and lib/)")
if(NOT TORCH_ROOT)
  file(GLOB _torch_candidates "${CMAKE_CURRENT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch")
  list(LENGTH _torch_candidates _torch_count)
  if(NOT _torch_count EQUAL 1)
    message(FATAL_ERROR "no torch found: run `make setup`, or pass TORCH_ROOT=<site-packages>/torch")
  endif()
  set(TORCH_ROOT "${_torch_candidates}")
endif()
if(NOT EXISTS "${TORCH_ROOT}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "TORCH_ROOT=${TORCH_ROOT} holds no lib/libtorch_cpu.so")
endif()
get_filename_component(_site "${TORCH_ROOT}" DIRECTORY)

# torch/version.py says which torch this is; anything else than the pinned one is not tested.
file(STRINGS "${TORCH_ROOT}/version.py" _torch_version REGEX "^__version__")
message(STATUS "torch: ${_torch_version} at ${TORCH_ROOT}")

# The CUDA headers that c10/cuda needs: the wheels' (runtime and crt), or a toolkit's. The runtime's
# without crt do not compile.
find_path(BATON_CUDA_INCLUDE crt/host_defines.h
          PATHS "${_site}/nvidia/cu13/include" /usr/local/cuda/include NO_DEFAULT_PATH)
# NCCL's header has no libraries of its own to link: torch brings those.
find_path(BATON_NCCL_INCLUDE nccl.h
          PATHS "${_site}/nvidia/nccl/include" /usr/local/cuda/include NO_DEFAULT_PATH)
if(NOT BATON_NCCL_INCLUDE)
  message(FATAL_ERROR "no nccl.h beside torch: pip install nvidia-nccl-cu13 (see docs/build.md)")
endif()
find_library(BATON_CUDART NAMES libcudart.so.13
             PATHS "${_site}/nvidia/cu13/lib" /usr/local/cuda/lib64 NO_DEFAULT_PATH)

function(_baton_import name file)
  add_library(${name} SHARED IMPORTED GLOBAL)
  set_target_properties(${name} PROPERTIES
    IMPORTED_LOCATION "${TORCH_ROOT}/lib/${file}"
    INTERFACE_INCLUDE_DIRECTORIES "${TORCH_ROOT}/include;${TORCH_ROOT}/include/torch/csrc/api/include")
endfunction()
_baton_import(torch::c10 libc10.so)
_baton_import(torch::cpu libtorch_cpu.so)
_baton_import(torch::c10_cuda libc10_cuda.so)
_baton_import(torch::cuda libtorch_cuda.so)
set_property(TARGET torch::cpu PROPERTY INTERFACE_LINK_LIBRARIES torch::c10)
# libtorch_cpu names libraries that only the CUDA half uses; they need not exist here.
set_property(TARGET torch::cpu PROPERTY INTERFACE_LINK_OPTIONS
             "LINKER:--unresolved-symbols=ignore-in-shared-libs")

# at::parallel_for is a header template over OpenMP: compiled code must share torch's own runtime,
# or two thread pools would fight for the cores.
file(GLOB _torch_gomp "${TORCH_ROOT}/lib/libgomp*.so*")
add_library(torch::openmp INTERFACE IMPORTED GLOBAL)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(torch::openmp INTERFACE -fopenmp)
  if(_torch_gomp)
    target_link_libraries(torch::openmp INTERFACE "${_torch_gomp}")
  else()
    target_link_libraries(torch::openmp INTERFACE gomp)
  endif()
endif()
