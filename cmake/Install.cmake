# SPDX-License-Identifier: Apache-2.0
# `cmake --install`: the program, the libraries, the headers and a package for find_package(Baton).
include(CMakePackageConfigHelpers)
install(TARGETS baton_flags baton_ops baton EXPORT BatonTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS baton_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS baton_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY "${CMAKE_SOURCE_DIR}/baton" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h" PATTERN "*-inl.h" EXCLUDE PATTERN "ops/cpu" EXCLUDE
        PATTERN "ops/cuda" EXCLUDE
        # Only tests and fuzz targets include these.
        PATTERN "example_*.h" EXCLUDE PATTERN "scratch_folder.h" EXCLUDE PATTERN "closeness.h" EXCLUDE
        PATTERN "ssd_recurrence.h" EXCLUDE PATTERN "memory_source.h" EXCLUDE
        PATTERN "check_decompression.h" EXCLUDE PATTERN "thread_ranks.h" EXCLUDE
        PATTERN "mesh_draw.h" EXCLUDE
        # Between the kernels of an operator.
        PATTERN "adamw_update.h" EXCLUDE)
install(EXPORT BatonTargets NAMESPACE Baton:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Baton)
configure_package_config_file("${CMAKE_SOURCE_DIR}/cmake/BatonConfig.cmake.in"
  "${CMAKE_BINARY_DIR}/BatonConfig.cmake"
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Baton)
write_basic_package_version_file("${CMAKE_BINARY_DIR}/BatonConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/BatonConfig.cmake" "${CMAKE_BINARY_DIR}/BatonConfigVersion.cmake"
  "${CMAKE_SOURCE_DIR}/cmake/Torch.cmake"
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Baton)
install(FILES "${CMAKE_BINARY_DIR}/completions/baton"
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES "${CMAKE_BINARY_DIR}/completions/_baton"
        DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)

# `cmake --install <build> --component wheel`: the libraries as a Python package holds them. They lie
# together, torch's package beside theirs, and what a Python environment does not bring lies with
# them under the name that they ask for.
set(_wheel_rpath "\$ORIGIN:\$ORIGIN/../torch/lib:\$ORIGIN/../nvidia/cu13/lib")
set(_bundled "")
foreach(_library IN ITEMS "${BATON_HIGHWAY}" ${BATON_DATA_LIBRARIES})
  if(_library MATCHES "\\.so")
    list(APPEND _bundled "${_library}")
  endif()
endforeach()
string(REGEX MATCH "[0-9][^']*" _made_for "${_torch_version}")
install(CODE "
  set(_folder \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}\")
  foreach(_file IN ITEMS \"$<TARGET_FILE:baton_ops>\" \"$<TARGET_FILE:baton_cuda>\" \"$<TARGET_FILE:baton>\")
    file(COPY \"\${_file}\" DESTINATION \"\${_folder}\")
    get_filename_component(_name \"\${_file}\" NAME)
    file(RPATH_SET FILE \"\${_folder}/\${_name}\" NEW_RPATH [==[${_wheel_rpath}]==])
    execute_process(COMMAND \"${CMAKE_STRIP}\" \"\${_folder}/\${_name}\" COMMAND_ERROR_IS_FATAL ANY)
  endforeach()
  foreach(_file IN ITEMS ${_bundled})
    execute_process(COMMAND \"${CMAKE_OBJDUMP}\" -p \"\${_file}\" OUTPUT_VARIABLE _head
                    COMMAND_ERROR_IS_FATAL ANY)
    string(REGEX MATCH \"SONAME +([^ \\n]+)\" _match \"\${_head}\")
    file(COPY_FILE \"\${_file}\" \"\${_folder}/\${CMAKE_MATCH_1}\")
  endforeach()
  file(WRITE \"\${_folder}/_build.py\" [==[
# SPDX-License-Identifier: Apache-2.0
\"\"\"What the libraries of this wheel are and were made for.\"\"\"

BATON = \"${PROJECT_VERSION}\"
TORCH = \"${_made_for}\"
]==])
" COMPONENT wheel EXCLUDE_FROM_ALL)
