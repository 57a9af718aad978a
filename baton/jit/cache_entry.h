// SPDX-License-Identifier: Apache-2.0
// The bytes of one file of the kernel cache.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "baton/jit/request.h"

namespace baton::jit {

/// Raised when the bytes of an entry, or what a key covers, change their meaning.
inline constexpr std::uint32_t kEntryFormat = 1;

/// A compiled kernel and where it came from.
struct StoredKernel {
  std::string key;
  std::string name;
  std::string arch;
  std::string entry;
  std::vector<std::string> options;
  std::string compiler_version;
  CompiledKernel kernel; ///< its log is not stored
};

/// Little-endian: "BATONKRN", format (u32), CRC-32C of all that follows (u32), bytes of metadata
/// (u64), bytes of machine code (u64), metadata as JSON, machine code.
std::string encode_entry(const StoredKernel& stored);

/// Throws Error with what is wrong where `bytes` are not a whole entry.
StoredKernel decode_entry(std::string_view bytes);

} // namespace baton::jit
