// SPDX-License-Identifier: Apache-2.0
// CRC-32C checksums (Castagnoli polynomial, as in iSCSI and TFRecord files).
#pragma once

#include <cstddef>
#include <cstdint>

namespace baton {

/// The CRC-32C of a text whose checksum so far is `crc` and which goes on with `size` bytes at
/// `data`. Start with 0. RFC 3720, appendix B.4: crc32c of 32 zero bytes is 0x8a9136aa.
std::uint32_t extend_crc32c(std::uint32_t crc, const void* data, std::size_t size);

inline std::uint32_t crc32c(const void* data, std::size_t size) {
  return extend_crc32c(0, data, size);
}

} // namespace baton
