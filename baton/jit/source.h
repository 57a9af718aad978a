// SPDX-License-Identifier: Apache-2.0
// Device sources that are part of the binary.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "baton/jit/request.h"

namespace baton::jit {

/// A file as the build put it into the binary.
struct EmbeddedFile {
  const char* name; ///< as an include names it: "baton/ops/cuda/tile.cuh"
  std::string_view text;
};

/// All embedded files, by name. The build writes this function.
std::span<const EmbeddedFile> embedded_files();

/// A source with all that it includes, as a CompileRequest wants them.
struct DeviceSource {
  SourceFile source;
  std::vector<SourceFile> headers; ///< by name
};

/// The file `name` among `files`, with every "baton/..." header that it reaches through includes.
/// Includes in angle brackets belong to the compiler. Throws Error where the file or a header is
/// missing, with the one that includes it.
DeviceSource find_source(std::span<const EmbeddedFile> files, const std::string& name);

/// The same among the embedded files: `device_source("baton/ops/cuda/ssd.cu")`.
DeviceSource device_source(const std::string& name);

} // namespace baton::jit
