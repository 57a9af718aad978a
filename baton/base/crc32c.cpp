// SPDX-License-Identifier: Apache-2.0
// CRC-32C by the SSE 4.2 instruction where the machine has it, by eight tables elsewhere.
#include "baton/base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace baton {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78; // 0x1edc6f41 with its bits reversed

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

// Table k holds what a byte does to the checksum when k more bytes follow it.
constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    }
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < tables.size(); ++k) {
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

std::uint32_t by_tables(std::uint32_t crc, const unsigned char* data, std::size_t size) {
  for (; size >= 8; size -= 8, data += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, data, sizeof(word));
    word ^= crc;
    crc = 0;
    for (std::size_t k = 0; k < 8; ++k) {
      crc ^= kTables[7 - k][(word >> (8 * k)) & 0xff];
    }
  }
  for (; size > 0; --size, ++data) {
    crc = (crc >> 8) ^ kTables[0][(crc ^ *data) & 0xff];
  }
  return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t
by_instruction(std::uint32_t crc, const unsigned char* data, std::size_t size) {
  std::uint64_t wide = crc;
  for (; size >= 8; size -= 8, data += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, data, sizeof(word));
    wide = _mm_crc32_u64(wide, word);
  }
  crc = static_cast<std::uint32_t>(wide);
  for (; size > 0; --size, ++data) {
    crc = _mm_crc32_u8(crc, *data);
  }
  return crc;
}
#endif

using Implementation = std::uint32_t (*)(std::uint32_t, const unsigned char*, std::size_t);

Implementation choose_implementation() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) {
    return by_instruction;
  }
#endif
  return by_tables;
}

} // namespace

namespace testing {
// The portable way, so that its test runs on machines that have the instruction.
std::uint32_t extend_crc32c_by_tables(std::uint32_t crc, const void* data, std::size_t size) {
  return ~by_tables(~crc, static_cast<const unsigned char*>(data), size);
}
} // namespace testing

std::uint32_t extend_crc32c(std::uint32_t crc, const void* data, std::size_t size) {
  static const Implementation implementation = choose_implementation();
  return ~implementation(~crc, static_cast<const unsigned char*>(data), size);
}

} // namespace baton
