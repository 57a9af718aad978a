// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/manifest.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>

#include <nlohmann/json.hpp>

#include "baton/base/crc32c.h"
#include "baton/base/error.h"
#include "baton/checkpoint/strict_json.h"

namespace baton::checkpoint {
namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "baton checkpoint";
constexpr std::int64_t kVersion = 1;
constexpr const char* kChecksumKey = "manifest_crc32c";

// --- writing

std::string hex(std::uint32_t value) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(8, '0');
  for (std::size_t i = 0; i < text.size(); ++i) {
    text[i] = kDigits[(value >> (28 - 4 * i)) & 0xf];
  }
  return text;
}

Json to_json(const TensorRecords& records) {
  Json out = Json::object();
  for (const auto& [name, record] : records) {
    Json pieces = Json::array();
    for (const Piece& piece : record.pieces) {
      pieces.push_back(
          {{"file", piece.file},
           {"key", piece.key},
           {"start", piece.start},
           {"shape", piece.shape}});
    }
    out[name] = {
        {"dtype", dtype_name(record.dtype)},
        {"shape", record.shape},
        {"pieces", std::move(pieces)}};
  }
  return out;
}

// Objects keep their keys sorted, so equal content gives equal text.
std::string checksum_of(const Json& root_without_checksum) {
  const std::string text = root_without_checksum.dump();
  return hex(crc32c(text.data(), text.size()));
}

// --- reading; `where` names the value for messages: parameters["embedding.weight"].pieces[0].file

std::string member(std::string_view where, std::string_view key) {
  return where.empty() ? std::string(key) : std::string(where) + "." + std::string(key);
}

const Json& get(const Json& object, std::string_view key, std::string_view where) {
  const auto found = object.find(key);
  if (found == object.end()) {
    throw Error(member(where, key) + " is missing");
  }
  return *found;
}

void check_object(
    const Json& value,
    const std::string& where,
    std::initializer_list<std::string_view> keys) {
  if (!value.is_object()) {
    throw Error((where.empty() ? "the manifest" : where) + " must be a JSON object");
  }
  for (const auto& [key, item] : value.items()) {
    if (keys.size() > 0 && std::find(keys.begin(), keys.end(), key) == keys.end()) {
      throw Error(member(where, in_quotes(key)) + " is not a key of this format");
    }
  }
}

std::string read_string(const Json& object, const char* key, const std::string& where) {
  const Json& value = get(object, key, where);
  if (!value.is_string()) {
    throw Error(member(where, key) + " must be a string");
  }
  return value.get<std::string>();
}

std::int64_t as_count(const Json& value, const std::string& where) {
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMax) {
    throw Error(where + " must be an integer from 0 to 2^63 - 1");
  }
  return value.get<std::int64_t>();
}

std::int64_t read_count(const Json& object, const char* key, const std::string& where) {
  return as_count(get(object, key, where), member(where, key));
}

std::vector<std::int64_t>
read_sizes(const Json& object, const char* key, const std::string& where) {
  const Json& list = get(object, key, where);
  if (!list.is_array()) {
    throw Error(member(where, key) + " must be a list of integers");
  }
  std::vector<std::int64_t> sizes;
  sizes.reserve(list.size());
  for (const Json& item : list) {
    sizes.push_back(as_count(item, member(where, key) + "[" + std::to_string(sizes.size()) + "]"));
  }
  return sizes;
}

// A plain name: a manifest may not lead a reader out of its folder.
void check_file_name(const std::string& name, const std::string& where) {
  const bool plain = !name.empty() && name.front() != '.' && name.find('/') == std::string::npos &&
                     name.find('\0') == std::string::npos;
  if (!plain) {
    throw Error(where + ": " + in_quotes(name) + " is not a plain file name");
  }
}

std::map<std::string, FileRecord> read_files(const Json& root) {
  const Json& files = get(root, "files", "");
  check_object(files, "files", {});
  std::map<std::string, FileRecord> records;
  for (const auto& [name, value] : files.items()) {
    const std::string where = "files[" + in_quotes(name) + "]";
    check_file_name(name, where);
    check_object(value, where, {"bytes", "crc32c"});
    const std::string digits = read_string(value, "crc32c", where);
    FileRecord record;
    record.bytes = static_cast<std::uint64_t>(read_count(value, "bytes", where));
    const char* end = digits.data() + digits.size();
    const auto parsed = std::from_chars(digits.data(), end, record.crc32c, 16);
    if (digits.size() != 8 || parsed.ec != std::errc() || parsed.ptr != end) {
      throw Error(where + ".crc32c must be 8 hexadecimal digits");
    }
    records.emplace(name, record);
  }
  return records;
}

bool overlap(const Piece& a, const Piece& b) {
  for (std::size_t dim = 0; dim < a.start.size(); ++dim) {
    if (a.start[dim] + a.shape[dim] <= b.start[dim] ||
        b.start[dim] + b.shape[dim] <= a.start[dim]) {
      return false;
    }
  }
  return true;
}

// Pieces inside the tensor that do not overlap and have its volume together cover it once.
void check_cover(const TensorRecord& record, const std::string& where) {
  const std::uint64_t whole = stored_size(record.dtype, record.shape);
  std::uint64_t covered = 0;
  for (std::size_t i = 0; i < record.pieces.size(); ++i) {
    const Piece& piece = record.pieces[i];
    const std::string piece_where = where + ".pieces[" + std::to_string(i) + "]";
    if (piece.start.size() != record.shape.size() || piece.shape.size() != record.shape.size()) {
      throw Error(piece_where + " must have as many dims as the tensor");
    }
    for (std::size_t dim = 0; dim < record.shape.size(); ++dim) {
      if (piece.shape[dim] > record.shape[dim] ||
          piece.start[dim] > record.shape[dim] - piece.shape[dim]) {
        throw Error(piece_where + " reaches outside the tensor in dim " + std::to_string(dim));
      }
    }
    const std::uint64_t size = stored_size(record.dtype, piece.shape);
    if (size == 0) {
      continue;
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (overlap(record.pieces[j], piece)) {
        throw Error(piece_where + " overlaps pieces[" + std::to_string(j) + "]");
      }
    }
    covered += size;
  }
  if (covered != whole) {
    throw Error(
        where + ": its pieces hold " + std::to_string(covered) + " of " + std::to_string(whole) +
        " bytes");
  }
}

TensorRecord read_tensor(
    const Json& value,
    const std::map<std::string, FileRecord>& files,
    const std::string& where) {
  check_object(value, where, {"dtype", "shape", "pieces"});
  const std::string dtype = read_string(value, "dtype", where);
  const std::optional<StoredDtype> known = dtype_from_name(dtype);
  if (!known) {
    throw Error(where + ".dtype: unknown dtype " + in_quotes(dtype));
  }
  TensorRecord record;
  record.dtype = *known;
  record.shape = read_sizes(value, "shape", where);
  const Json& pieces = get(value, "pieces", where);
  if (!pieces.is_array()) {
    throw Error(where + ".pieces must be a list");
  }
  for (const Json& item : pieces) {
    const std::string piece_where = where + ".pieces[" + std::to_string(record.pieces.size()) + "]";
    check_object(item, piece_where, {"file", "key", "start", "shape"});
    Piece piece;
    piece.file = read_string(item, "file", piece_where);
    if (files.count(piece.file) == 0) {
      throw Error(piece_where + ".file: " + in_quotes(piece.file) + " is not listed under files");
    }
    piece.key = read_string(item, "key", piece_where);
    piece.start = read_sizes(item, "start", piece_where);
    piece.shape = read_sizes(item, "shape", piece_where);
    record.pieces.push_back(std::move(piece));
  }
  try {
    stored_size(record.dtype, record.shape);
  } catch (const Error& error) {
    throw Error(where + ": " + error.what());
  }
  return record;
}

void check_cover(const TensorRecords& records, const char* key) {
  for (const auto& [name, record] : records) {
    check_cover(record, std::string(key) + "[" + in_quotes(name) + "]");
  }
}

void check_cover(const Manifest& manifest) {
  check_cover(manifest.parameters, "parameters");
  check_cover(manifest.optimizer_states, "optimizer_states");
}

void join(TensorRecords& all, const TensorRecords& part, const char* key) {
  for (const auto& [name, record] : part) {
    const auto [found, is_new] = all.emplace(name, record);
    if (is_new) {
      continue;
    }
    if (found->second.dtype != record.dtype || found->second.shape != record.shape) {
      throw Error(
          std::string(key) + "[" + in_quotes(name) + "]: its writers disagree on dtype or shape");
    }
    found->second.pieces.insert(
        found->second.pieces.end(), record.pieces.begin(), record.pieces.end());
  }
}

TensorRecords
read_tensors(const Json& root, const char* key, const std::map<std::string, FileRecord>& files) {
  const Json& tensors = get(root, key, "");
  check_object(tensors, key, {});
  TensorRecords records;
  for (const auto& [name, value] : tensors.items()) {
    records.emplace(
        name, read_tensor(value, files, std::string(key) + "[" + in_quotes(name) + "]"));
  }
  return records;
}

void check_format(const Json& root) {
  if (!root.is_object() || !root.contains("format") || root["format"] != kFormat) {
    throw Error("format must be \"" + std::string(kFormat) + "\"; this is no checkpoint of Baton");
  }
  const std::int64_t version = read_count(root, "version", "");
  if (version != kVersion) {
    throw Error(
        "format version " + std::to_string(version) + " is not known, this program reads version " +
        std::to_string(kVersion));
  }
}

} // namespace

std::string serialise_manifest(const Manifest& manifest) {
  Json files = Json::object();
  for (const auto& [name, record] : manifest.files) {
    files[name] = {{"bytes", record.bytes}, {"crc32c", hex(record.crc32c)}};
  }
  Json root = {
      {"format", kFormat},
      {"version", kVersion},
      {"step", manifest.step},
      {"program", manifest.program},
      {"files", std::move(files)},
      {"parameters", to_json(manifest.parameters)},
      {"optimizer_states", to_json(manifest.optimizer_states)}};
  try {
    root[kChecksumKey] = checksum_of(root);
    return root.dump(1) + "\n";
  } catch (const Json::exception&) {
    throw Error("a name in the manifest is not valid UTF-8");
  }
}

Manifest parse_manifest(std::string_view text) {
  Manifest manifest = parse_manifest_part(text);
  check_cover(manifest);
  return manifest;
}

Manifest join_manifests(const std::vector<Manifest>& parts) {
  Manifest all = parts.front();
  for (std::size_t i = 1; i < parts.size(); ++i) {
    for (const auto& [name, record] : parts[i].files) {
      if (!all.files.emplace(name, record).second) {
        throw Error("files[" + in_quotes(name) + "]: two writers have it");
      }
    }
    join(all.parameters, parts[i].parameters, "parameters");
    join(all.optimizer_states, parts[i].optimizer_states, "optimizer_states");
  }
  check_cover(all);
  return all;
}

Manifest parse_manifest_part(std::string_view text) {
  Json root = parse_strict_json(text);
  check_format(root);
  check_object(
      root,
      "",
      {"format",
       "version",
       "step",
       "program",
       "files",
       "parameters",
       "optimizer_states",
       kChecksumKey});
  const std::string stated = read_string(root, kChecksumKey, "");
  root.erase(kChecksumKey);
  if (checksum_of(root) != stated) {
    throw Error("the manifest does not have the checksum that it states: it is damaged");
  }
  Manifest manifest;
  manifest.step = read_count(root, "step", "");
  manifest.program = read_string(root, "program", "");
  manifest.files = read_files(root);
  manifest.parameters = read_tensors(root, "parameters", manifest.files);
  manifest.optimizer_states = read_tensors(root, "optimizer_states", manifest.files);
  return manifest;
}

} // namespace baton::checkpoint
