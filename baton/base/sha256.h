// SPDX-License-Identifier: Apache-2.0
// SHA-256 digests, for names that follow from contents.
#pragma once

#include <string>
#include <string_view>

namespace baton {

/// The SHA-256 digest of `bytes` (FIPS 180-4, section 6.2) as 64 hexadecimal digits. Written here
/// because a digest is all that is wanted of the large libraries that offer one, and machines
/// without their packages build Baton too.
std::string sha256_hex(std::string_view bytes);

} // namespace baton
