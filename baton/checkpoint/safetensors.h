// SPDX-License-Identifier: Apache-2.0
// Tensors in safetensors files: a mapped reader and a writer.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/checkpoint/checked_file.h"
#include "baton/checkpoint/safetensors_header.h"

namespace baton::checkpoint {

/// Throws `c10::Error` for a dtype that safetensors files cannot hold.
StoredDtype stored_dtype(at::ScalarType dtype);
at::ScalarType scalar_type(StoredDtype dtype);

/// Whether a read may change the element type on its way to the target.
enum class DtypeRule { kMustMatch, kConvert };

/// Throws `Error` that begins with `where` unless a tensor stored so may be read into `target`.
void check_target(
    const std::string& where,
    StoredDtype dtype,
    at::IntArrayRef shape,
    const at::Tensor& target,
    DtypeRule rule);

/// One open file. Its methods throw `Error`, naming file and tensor, for a name that it lacks.
class SafetensorsFile {
 public:
  /// Opens a file and checks its header. Throws `Error`, naming the file, when it is damaged.
  explicit SafetensorsFile(const std::filesystem::path& path);
  SafetensorsFile(SafetensorsFile&&) = default;
  SafetensorsFile& operator=(SafetensorsFile&&) = default;
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const SafetensorsHeader& header() const { return header_; }
  const FileReader& file() const { return *file_; }

  bool contains(std::string_view name) const;
  const StoredTensor& find(std::string_view name) const;

  /// A CPU tensor on the mapped bytes, which stay mapped as long as the tensor lives. Writing to it
  /// changes this process's copy only, never the file. Where another program wrote the file without
  /// alignment, the tensor is a copy.
  at::Tensor view(std::string_view name) const;

  /// Fills `target`, which has the tensor's shape and may lie on any device with any strides. Reads
  /// straight into a dense CPU target of the same dtype, and through one temporary tensor
  /// otherwise. Throws `Error` when the shapes differ, and when the dtypes do unless `rule` is
  /// kConvert.
  void read_into(std::string_view name, const at::Tensor& target, DtypeRule rule) const;

 private:
  std::shared_ptr<const FileReader> file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, const StoredTensor*> by_name_; // into `header_`
  std::uint64_t data_begin_ = 0;
  std::shared_ptr<char> mapping_;
};

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
  std::optional<at::ScalarType> dtype{}; ///< of the file; the tensor's own by default
};

/// Writes a file whole or not at all, synced, one tensor at a time; tensors may lie on any device
/// with any strides. Data begins at a multiple of 8 bytes and every tensor at one of its element
/// size. Throws `Error` on a name that stands twice, `RunError` when the disk is full or fails.
FileRecord write_safetensors(
    const std::filesystem::path& path,
    const std::vector<NamedTensor>& tensors,
    const std::map<std::string, std::string>& metadata = {});

} // namespace baton::checkpoint
