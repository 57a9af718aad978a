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
        PATTERN "check_decompression.h" EXCLUDE)
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
