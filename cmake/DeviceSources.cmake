# SPDX-License-Identifier: Apache-2.0
# Device code is compiled at run time, so its text is part of the binary.

# baton_device_sources(<out> <folder>...): every `*.cu`, `*.cuh` and tuned/*.toml of these folders of baton/
# goes into one generated source, which defines jit::embedded_files(); <out> is its path. The assembler
# reads the files as they are: no limit of a string literal and no character needs care.
function(baton_device_sources out)
  set(_files "")
  foreach(_folder IN LISTS ARGN)
    file(GLOB _found CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/baton/${_folder}/*.cu"
         "${CMAKE_SOURCE_DIR}/baton/${_folder}/*.cuh"
         "${CMAKE_SOURCE_DIR}/baton/${_folder}/tuned/*.toml")
    list(APPEND _files ${_found})
  endforeach()
  list(SORT _files)
  set(_blocks "")
  set(_rows "")
  set(_number 0)
  foreach(_file IN LISTS _files)
    file(RELATIVE_PATH _name "${CMAKE_SOURCE_DIR}" "${_file}")
    set(_symbol "baton_device_source_${_number}")
    string(APPEND _blocks
      "asm(\".section .rodata\\n\"\n"
      "    \".global ${_symbol}, ${_symbol}_end\\n\"\n"
      "    \".hidden ${_symbol}, ${_symbol}_end\\n\"\n"
      "    \"${_symbol}: .incbin \\\"${_file}\\\"\\n\"\n"
      "    \"${_symbol}_end: .byte 0\\n\"\n"
      "    \".previous\");\n"
      "extern \"C\" __attribute__((visibility(\"hidden\"))) const char ${_symbol}[], ${_symbol}_end[];\n")
    string(APPEND _rows "      {\"${_name}\", between(${_symbol}, ${_symbol}_end)},\n")
    math(EXPR _number "${_number} + 1")
  endforeach()
  set(_generated "${CMAKE_BINARY_DIR}/device_sources.cpp")
  file(CONFIGURE OUTPUT "${_generated}" @ONLY CONTENT [==[
// Written by cmake/DeviceSources.cmake.
#include "baton/jit/source.h"

#include <vector>

@_blocks@
namespace baton::jit {
namespace {

[[maybe_unused]] std::string_view between(const char* begin, const char* end) {
  return {begin, static_cast<std::size_t>(end - begin)};
}

} // namespace

std::span<const EmbeddedFile> embedded_files() {
  static const std::vector<EmbeddedFile> files = {
@_rows@  };
  return files;
}

} // namespace baton::jit
]==])
  # Dependencies that no compiler reports. ccache sees .incbin and passes such a source on.
  set_source_files_properties("${_generated}" PROPERTIES OBJECT_DEPENDS "${_files}"
                              SKIP_PRECOMPILE_HEADERS ON)
  set(${out} "${_generated}" PARENT_SCOPE)
endfunction()
