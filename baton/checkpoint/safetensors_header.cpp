// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "baton/base/error.h"
#include "baton/checkpoint/strict_json.h"

namespace baton::checkpoint {
namespace {

constexpr std::uint64_t kMaxJsonSize = 100'000'000;
constexpr std::size_t kMaxDims = 64;
constexpr const char* kMetadataKey = "__metadata__";

struct DtypeRow {
  StoredDtype dtype;
  std::string_view name;
  std::uint64_t size;
};

constexpr std::array<DtypeRow, 15> kDtypes{{
    {StoredDtype::kBool, "BOOL", 1},
    {StoredDtype::kU8, "U8", 1},
    {StoredDtype::kI8, "I8", 1},
    {StoredDtype::kF8E4M3, "F8_E4M3", 1},
    {StoredDtype::kF8E5M2, "F8_E5M2", 1},
    {StoredDtype::kI16, "I16", 2},
    {StoredDtype::kU16, "U16", 2},
    {StoredDtype::kF16, "F16", 2},
    {StoredDtype::kBF16, "BF16", 2},
    {StoredDtype::kI32, "I32", 4},
    {StoredDtype::kU32, "U32", 4},
    {StoredDtype::kF32, "F32", 4},
    {StoredDtype::kI64, "I64", 8},
    {StoredDtype::kU64, "U64", 8},
    {StoredDtype::kF64, "F64", 8},
}};

const DtypeRow& dtype_row(StoredDtype dtype) {
  return kDtypes[static_cast<std::size_t>(dtype)];
}

// Reads a JSON list of integers in [0, 2^63).
std::vector<std::int64_t> sizes_from(const nlohmann::json& list, const std::string& what) {
  if (!list.is_array()) {
    throw Error(what + " must be a list of integers");
  }
  std::vector<std::int64_t> sizes;
  sizes.reserve(list.size());
  for (const nlohmann::json& item : list) {
    if (!item.is_number_unsigned() ||
        item.get<std::uint64_t>() >
            static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      throw Error(what + " must hold integers from 0 to 2^63 - 1");
    }
    sizes.push_back(item.get<std::int64_t>());
  }
  return sizes;
}

StoredTensor tensor_from(const std::string& name, const nlohmann::json& entry) {
  const std::string where = "tensor " + in_quotes(name);
  if (!entry.is_object()) {
    throw Error(where + ": its entry must be a JSON object");
  }
  for (const auto& [key, value] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      throw Error(where + ": unknown key " + in_quotes(key));
    }
  }
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!entry.contains(key)) {
      throw Error(where + ": \"" + key + "\" is missing");
    }
  }
  if (!entry["dtype"].is_string()) {
    throw Error(where + ": dtype must be a string");
  }
  const std::optional<StoredDtype> dtype = dtype_from_name(entry["dtype"].get<std::string>());
  if (!dtype) {
    throw Error(where + ": unknown dtype " + in_quotes(entry["dtype"].get<std::string>()));
  }
  const std::vector<std::int64_t> range =
      sizes_from(entry["data_offsets"], where + ": data_offsets");
  if (range.size() != 2 || range[0] > range[1]) {
    throw Error(where + ": data_offsets must be two rising byte offsets");
  }
  StoredTensor tensor;
  tensor.name = name;
  tensor.dtype = *dtype;
  tensor.shape = sizes_from(entry["shape"], where + ": shape");
  tensor.begin = static_cast<std::uint64_t>(range[0]);
  tensor.end = static_cast<std::uint64_t>(range[1]);
  return tensor;
}

void check_size(const StoredTensor& tensor) {
  const std::string where = "tensor " + in_quotes(tensor.name);
  std::uint64_t expected = 0;
  try {
    expected = stored_size(tensor.dtype, tensor.shape);
  } catch (const Error& error) {
    throw Error(where + ": " + error.what());
  }
  if (tensor.end - tensor.begin != expected) {
    throw Error(
        where + ": its shape needs " + std::to_string(expected) + " bytes, its data_offsets hold " +
        std::to_string(tensor.end - tensor.begin));
  }
}

void check_cover(const std::vector<StoredTensor>& tensors, std::uint64_t data_size) {
  std::uint64_t end = 0;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.end > data_size) {
      throw Error(
          "tensor " + in_quotes(tensor.name) + ": ends at byte " + std::to_string(tensor.end) +
          " of the data, but the file holds " + std::to_string(data_size));
    }
    if (tensor.begin != end) {
      throw Error(
          "tensor " + in_quotes(tensor.name) + ": begins at byte " + std::to_string(tensor.begin) +
          (tensor.begin < end ? ", inside the tensor before it, which ends at "
                              : ", leaving a hole after byte ") +
          std::to_string(end));
    }
    end = tensor.end;
  }
  if (end != data_size) {
    throw Error(
        "the tensors end at byte " + std::to_string(end) + " of the data, but the file holds " +
        std::to_string(data_size));
  }
}

} // namespace

std::string_view dtype_name(StoredDtype dtype) {
  return dtype_row(dtype).name;
}

std::uint64_t dtype_size(StoredDtype dtype) {
  return dtype_row(dtype).size;
}

std::optional<StoredDtype> dtype_from_name(std::string_view name) {
  for (const DtypeRow& row : kDtypes) {
    if (row.name == name) {
      return row.dtype;
    }
  }
  return std::nullopt;
}

std::uint64_t stored_size(StoredDtype dtype, const std::vector<std::int64_t>& shape) {
  if (shape.size() > kMaxDims) {
    throw Error("its shape has more than " + std::to_string(kMaxDims) + " dimensions");
  }
  // Strides are products of the sizes with zeros taken as ones, so that product must fit as well.
  std::int64_t product = static_cast<std::int64_t>(dtype_size(dtype));
  bool empty = false;
  for (const std::int64_t size : shape) {
    if (size < 0) {
      throw Error("its shape holds the negative size " + std::to_string(size));
    }
    empty = empty || size == 0;
    if (__builtin_mul_overflow(product, std::max<std::int64_t>(size, 1), &product)) {
      throw Error("its shape overflows 63 bits");
    }
  }
  return empty ? 0 : static_cast<std::uint64_t>(product);
}

std::uint64_t parse_safetensors_prefix(std::string_view first_bytes, std::uint64_t file_size) {
  if (first_bytes.size() < kSafetensorsPrefixSize || file_size < kSafetensorsPrefixSize) {
    throw Error("a safetensors file has at least 8 bytes, this one " + std::to_string(file_size));
  }
  std::uint64_t size = 0;
  for (std::uint64_t i = 0; i < kSafetensorsPrefixSize; ++i) {
    size |= static_cast<std::uint64_t>(static_cast<unsigned char>(first_bytes[i])) << (8 * i);
  }
  if (size > kMaxJsonSize) {
    throw Error(
        "a header of " + std::to_string(size) + " bytes is above the limit of " +
        std::to_string(kMaxJsonSize) + "; this is no safetensors file");
  }
  if (size > file_size - kSafetensorsPrefixSize) {
    throw Error(
        "the header needs " + std::to_string(size) + " bytes after the first 8, the file holds " +
        std::to_string(file_size - kSafetensorsPrefixSize));
  }
  return size;
}

SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t data_size) {
  if (json.empty() || json.front() != '{') {
    throw Error("the header must begin with '{'; this is no safetensors file");
  }
  const nlohmann::json root = parse_strict_json(json);
  SafetensorsHeader header;
  for (const auto& [name, entry] : root.items()) {
    if (name != kMetadataKey) {
      header.tensors.push_back(tensor_from(name, entry));
      check_size(header.tensors.back());
      continue;
    }
    if (!entry.is_object()) {
      throw Error("\"__metadata__\" must be a JSON object of strings");
    }
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) {
        throw Error("\"__metadata__\" key " + in_quotes(key) + " must be a string");
      }
      header.metadata.emplace(key, value.get<std::string>());
    }
  }
  // An empty tensor may share its place with the tensor that begins there.
  std::stable_sort(
      header.tensors.begin(),
      header.tensors.end(),
      [](const StoredTensor& a, const StoredTensor& b) {
        return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
      });
  check_cover(header.tensors, data_size);
  return header;
}

SafetensorsHeader place_tensors(std::vector<StoredTensor> tensors) {
  std::set<std::string_view> names;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.name == kMetadataKey || !names.insert(tensor.name).second) {
      throw Error("tensor name " + in_quotes(tensor.name) + " stands twice or is reserved");
    }
  }
  SafetensorsHeader header;
  header.tensors = std::move(tensors);
  std::stable_sort(
      header.tensors.begin(),
      header.tensors.end(),
      [](const StoredTensor& a, const StoredTensor& b) {
        return dtype_size(a.dtype) > dtype_size(b.dtype);
      });
  std::uint64_t offset = 0;
  for (StoredTensor& tensor : header.tensors) {
    tensor.begin = offset;
    offset += stored_size(tensor.dtype, tensor.shape);
    tensor.end = offset;
  }
  return header;
}

std::string serialise_safetensors_header(const SafetensorsHeader& header) {
  std::string json = "{";
  const auto append = [&json](const std::string& key, const nlohmann::json& value) {
    json += (json.size() > 1 ? "," : "") + nlohmann::json(key).dump() + ":" + value.dump();
  };
  try {
    if (!header.metadata.empty()) {
      append(kMetadataKey, header.metadata);
    }
    for (const StoredTensor& tensor : header.tensors) {
      append(
          tensor.name,
          {{"dtype", dtype_name(tensor.dtype)},
           {"shape", tensor.shape},
           {"data_offsets", {tensor.begin, tensor.end}}});
    }
  } catch (const nlohmann::json::exception&) {
    throw Error("a tensor name or a metadata value is not valid UTF-8");
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  std::string prefix;
  for (std::uint64_t i = 0; i < kSafetensorsPrefixSize; ++i) {
    prefix.push_back(static_cast<char>((json.size() >> (8 * i)) & 0xff));
  }
  return prefix + json;
}

} // namespace baton::checkpoint
