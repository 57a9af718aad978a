// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/cache_entry.h"

#include <bit>
#include <cstring>

#include <nlohmann/json.hpp>

#include "baton/base/crc32c.h"
#include "baton/base/error.h"

namespace baton::jit {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "entries are read as they lie");

constexpr std::string_view kMagic = "BATONKRN";
constexpr std::size_t kChecksumAt = kMagic.size() + sizeof(std::uint32_t);
constexpr std::size_t kLengthsAt = kChecksumAt + sizeof(std::uint32_t);
constexpr std::size_t kHeaderBytes = kLengthsAt + 2 * sizeof(std::uint64_t);

template <typename Number>
void append_number(std::string& bytes, Number number) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

template <typename Number>
Number number_at(std::string_view bytes, std::size_t at) {
  Number number = 0;
  std::memcpy(&number, bytes.data() + at, sizeof(number));
  return number;
}

std::string metadata_text(const StoredKernel& stored) {
  const CompiledKernel& kernel = stored.kernel;
  const json metadata = {
      {"key", stored.key},
      {"name", stored.name},
      {"arch", stored.arch},
      {"entry", stored.entry},
      {"options", stored.options},
      {"compiler_version", stored.compiler_version},
      {"entry_symbol", kernel.entry_symbol},
      {"registers", kernel.registers},
      {"spill_bytes", kernel.spill_bytes},
      {"shared_bytes", kernel.shared_bytes},
      {"stack_bytes", kernel.stack_bytes},
      {"microseconds", kernel.microseconds}};
  return metadata.dump(-1, ' ', false, json::error_handler_t::replace);
}

StoredKernel parse_metadata(std::string_view text) {
  const json metadata = json::parse(text);
  StoredKernel stored;
  metadata.at("key").get_to(stored.key);
  metadata.at("name").get_to(stored.name);
  metadata.at("arch").get_to(stored.arch);
  metadata.at("entry").get_to(stored.entry);
  metadata.at("options").get_to(stored.options);
  metadata.at("compiler_version").get_to(stored.compiler_version);
  metadata.at("entry_symbol").get_to(stored.kernel.entry_symbol);
  metadata.at("registers").get_to(stored.kernel.registers);
  metadata.at("spill_bytes").get_to(stored.kernel.spill_bytes);
  metadata.at("shared_bytes").get_to(stored.kernel.shared_bytes);
  metadata.at("stack_bytes").get_to(stored.kernel.stack_bytes);
  metadata.at("microseconds").get_to(stored.kernel.microseconds);
  return stored;
}

} // namespace

std::string encode_entry(const StoredKernel& stored) {
  const std::string metadata = metadata_text(stored);
  std::string body;
  append_number<std::uint64_t>(body, metadata.size());
  append_number<std::uint64_t>(body, stored.kernel.cubin.size());
  body += metadata;
  body += stored.kernel.cubin;
  std::string bytes(kMagic);
  append_number<std::uint32_t>(bytes, kEntryFormat);
  append_number<std::uint32_t>(bytes, crc32c(body.data(), body.size()));
  return bytes + body;
}

StoredKernel decode_entry(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes || bytes.substr(0, kMagic.size()) != kMagic) {
    throw Error("not a compiled kernel");
  }
  const auto format = number_at<std::uint32_t>(bytes, kMagic.size());
  if (format != kEntryFormat) {
    throw Error("format " + std::to_string(format) + ", not " + std::to_string(kEntryFormat));
  }
  const std::string_view body = bytes.substr(kLengthsAt);
  if (crc32c(body.data(), body.size()) != number_at<std::uint32_t>(bytes, kChecksumAt)) {
    throw Error("checksum does not match");
  }
  const auto metadata_bytes = number_at<std::uint64_t>(bytes, kLengthsAt);
  const auto cubin_bytes = number_at<std::uint64_t>(bytes, kLengthsAt + sizeof(std::uint64_t));
  const std::size_t payload = bytes.size() - kHeaderBytes;
  if (metadata_bytes > payload || cubin_bytes != payload - metadata_bytes) {
    throw Error("lengths do not add up");
  }
  try {
    StoredKernel stored = parse_metadata(bytes.substr(kHeaderBytes, metadata_bytes));
    stored.kernel.cubin = bytes.substr(kHeaderBytes + metadata_bytes);
    return stored;
  } catch (const json::exception& error) {
    throw Error(std::string("metadata: ") + error.what());
  }
}

} // namespace baton::jit
