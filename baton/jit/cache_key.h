// SPDX-License-Identifier: Apache-2.0
// The name of a compiled kernel: a digest of all that its machine code follows from.
#pragma once

#include <string>

#include "baton/jit/request.h"

namespace baton::jit {

/// 64 hexadecimal digits over names and contents of the source and its headers (in any order), the
/// options in their order, entry, architecture, `compiler_version` and the format of entries.
std::string cache_key(const CompileRequest& request, const std::string& compiler_version);

} // namespace baton::jit
