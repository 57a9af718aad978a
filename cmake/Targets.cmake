# SPDX-License-Identifier: Apache-2.0
# How a folder of sources becomes targets: library code, one test program a `*_test.cpp`, one
# benchmark program a `*_bench.cpp`.

add_library(baton_flags INTERFACE)
target_compile_features(baton_flags INTERFACE cxx_std_20)
target_include_directories(baton_flags INTERFACE
  $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_include_directories(baton_flags SYSTEM INTERFACE
  "$<BUILD_INTERFACE:${BATON_TOML_INCLUDE};${BATON_CLI11_INCLUDE};${BATON_HIGHWAY_INCLUDE}>"
  "$<BUILD_INTERFACE:${BATON_DATA_INCLUDE}>")
target_link_libraries(baton_flags INTERFACE torch::openmp torch::cpu nlohmann_json::nlohmann_json
                      Threads::Threads)

add_library(baton_precompiled OBJECT ${CMAKE_SOURCE_DIR}/cmake/precompiled.cpp)
target_link_libraries(baton_precompiled PRIVATE baton_flags)
target_precompile_headers(baton_precompiled PRIVATE ${CMAKE_SOURCE_DIR}/cmake/precompiled.h)

# Sources of these folders, without tests, benchmarks and the CUDA module.
function(baton_sources out)
  set(_all "")
  foreach(_folder IN LISTS ARGN)
    file(GLOB _found CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/baton/${_folder}/*.cpp")
    list(FILTER _found EXCLUDE REGEX "_(test|bench|fuzz)\\.cpp$")
    list(APPEND _all ${_found})
  endforeach()
  set(${out} ${_all} PARENT_SCOPE)
endfunction()

# Of `sources`, the named ones must not need libtorch: they are compiled where its headers are out of
# reach, and take their place in the list as objects.
function(baton_without_torch sources)
  set(_all ${${sources}})
  set(_objects "")
  foreach(_stem IN LISTS ARGN)
    set(_file "${CMAKE_SOURCE_DIR}/baton/${_stem}.cpp")
    if(NOT _file IN_LIST _all)
      message(FATAL_ERROR "${_file} is not among the sources it should be taken from")
    endif()
    list(REMOVE_ITEM _all "${_file}")
    list(APPEND _objects "${_file}")
  endforeach()
  set(_name "${sources}_without_torch")
  string(REGEX REPLACE "^_" "baton_" _name "${_name}")
  add_library(${_name} OBJECT ${_objects})
  target_include_directories(${_name} PRIVATE "${CMAKE_SOURCE_DIR}")
  target_include_directories(${_name} SYSTEM PRIVATE "${BATON_TOML_INCLUDE}" ${BATON_DATA_INCLUDE})
  target_link_libraries(${_name} PRIVATE nlohmann_json::nlohmann_json)
  set(${sources} ${_all} "$<TARGET_OBJECTS:${_name}>" PARENT_SCOPE)
endfunction()

# baton_tests(<library> <folder>...): test programs of these folders, linked to <library>. The target
# `tests_<folder>` builds those of one folder, `tests` all. `*_long_test.cpp` takes minutes: label long.
function(baton_tests library)
  if(NOT BATON_TESTS)
    return()
  endif()
  find_package(GTest REQUIRED)
  foreach(_folder IN LISTS ARGN)
    file(GLOB _found CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/baton/${_folder}/*_test.cpp")
    string(REPLACE "/" "_" _prefix "${_folder}")
    add_custom_target(tests_${_prefix})
    add_dependencies(tests tests_${_prefix})
    foreach(_file IN LISTS _found)
      get_filename_component(_stem "${_file}" NAME_WE)
      set(_name "${_prefix}_${_stem}")
      add_executable(${_name} EXCLUDE_FROM_ALL "${_file}")
      target_link_libraries(${_name} PRIVATE ${library} GTest::gtest GTest::gtest_main ${BATON_ZLIB}
                            ${BATON_ZSTD})
      target_precompile_headers(${_name} REUSE_FROM baton_precompiled)
      add_test(NAME ${_name} COMMAND ${_name})
      if(_stem MATCHES "_long_test$")
        set_tests_properties(${_name} PROPERTIES LABELS long)
      endif()
      add_dependencies(tests_${_prefix} ${_name})
    endforeach()
  endforeach()
endfunction()

# baton_benchmarks(<library> <folder>...): the same for benchmark programs.
function(baton_benchmarks library)
  if(NOT BATON_BENCHMARKS)
    return()
  endif()
  find_package(benchmark REQUIRED)
  foreach(_folder IN LISTS ARGN)
    file(GLOB _found CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/baton/${_folder}/*_bench.cpp")
    string(REPLACE "/" "_" _prefix "${_folder}")
    foreach(_file IN LISTS _found)
      get_filename_component(_stem "${_file}" NAME_WE)
      set(_name "${_prefix}_${_stem}")
      add_executable(${_name} EXCLUDE_FROM_ALL "${_file}")
      target_link_libraries(${_name} PRIVATE ${library} benchmark::benchmark benchmark::benchmark_main)
      target_precompile_headers(${_name} REUSE_FROM baton_precompiled)
      add_dependencies(benchmarks ${_name})
    endforeach()
  endforeach()
endfunction()

# baton_fuzzers(<source stem>...): libFuzzer programs of all `*_fuzz.cpp`, each linked to the named
# sources alone, so that nothing but the parsers is built. Wants clang and BATON_SANITIZE.
function(baton_fuzzers)
  list(TRANSFORM ARGN PREPEND "${CMAKE_SOURCE_DIR}/baton/")
  list(TRANSFORM ARGN APPEND ".cpp")
  add_library(baton_parsers OBJECT EXCLUDE_FROM_ALL ${ARGN})
  target_link_libraries(baton_parsers PUBLIC baton_flags ${BATON_DATA_LIBRARIES})
  target_compile_options(baton_parsers PRIVATE -fsanitize=fuzzer-no-link)
  add_custom_target(fuzzers)
  file(GLOB_RECURSE _found CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/baton/*_fuzz.cpp")
  foreach(_file IN LISTS _found)
    get_filename_component(_name "${_file}" NAME_WE)
    add_executable(${_name} EXCLUDE_FROM_ALL "${_file}")
    target_link_libraries(${_name} PRIVATE baton_parsers)
    target_compile_options(${_name} PRIVATE -fsanitize=fuzzer-no-link)
    target_link_options(${_name} PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzzers ${_name})
  endforeach()
endfunction()
