// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file: which tensors it holds, and where. Free of libtorch, so that it
// can be fuzzed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton::checkpoint {

/// Element types as they stand in a file.
enum class StoredDtype {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64,
};

std::string_view dtype_name(StoredDtype dtype); ///< "BF16"
std::uint64_t dtype_size(StoredDtype dtype);    ///< bytes an element
std::optional<StoredDtype> dtype_from_name(std::string_view name);

/// One tensor of a file. `begin` and `end` are bytes counted from the end of the header.
struct StoredTensor {
  std::string name;
  StoredDtype dtype = StoredDtype::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<StoredTensor> tensors;           ///< by rising `begin`
  std::map<std::string, std::string> metadata; ///< the "__metadata__" of the file
};

/// Every file begins with this many bytes: the length of the JSON text, little-endian.
inline constexpr std::uint64_t kSafetensorsPrefixSize = 8;

/// The length of the JSON text from the first 8 bytes of a file of `file_size` bytes. Throws
/// `Error` when there are fewer, when the text would end outside the file, or when it is longer
/// than 100 MB.
std::uint64_t parse_safetensors_prefix(std::string_view first_bytes, std::uint64_t file_size);

/// Parses and checks the JSON text of a header that `data_size` bytes of data follow. Throws
/// `Error`, naming the tensor, unless every dtype is known, every size is its shape's, names
/// differ, and the tensors cover the data without holes or overlaps.
SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t data_size);

/// Bytes of a tensor of this dtype and shape. Throws `Error` on a negative size or an overflow.
std::uint64_t stored_size(StoredDtype dtype, const std::vector<std::int64_t>& shape);

/// Places tensors (whose `begin` and `end` are ignored) one after the other, wide elements first,
/// so that each is aligned to its element size. Throws `Error` on a name that stands twice.
SafetensorsHeader place_tensors(std::vector<StoredTensor> tensors);

/// The start of a file as bytes: prefix, JSON text, and spaces up to a multiple of 8 bytes.
std::string serialise_safetensors_header(const SafetensorsHeader& header);

} // namespace baton::checkpoint
