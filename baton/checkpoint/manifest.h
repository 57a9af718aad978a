// SPDX-License-Identifier: Apache-2.0
// The manifest of a checkpoint folder: its files with their checksums, and which piece of which
// tensor lies where. Free of libtorch, so that it can be fuzzed.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "baton/checkpoint/checked_file.h"
#include "baton/checkpoint/safetensors_header.h"

namespace baton::checkpoint {

/// A block of a tensor: the tensor `key` of the file `file` holds the global elements from `start`
/// on, `shape` of them along each dim.
struct Piece {
  std::string file;
  std::string key;
  std::vector<std::int64_t> start;
  std::vector<std::int64_t> shape;
};

/// A tensor of the whole model, whatever ranks wrote it. Its pieces cover it exactly once.
struct TensorRecord {
  StoredDtype dtype = StoredDtype::kF32;
  std::vector<std::int64_t> shape;
  std::vector<Piece> pieces;
};

using TensorRecords = std::map<std::string, TensorRecord>;

struct Manifest {
  std::int64_t step = 0;
  std::string program;                     ///< version of the program that wrote it
  std::map<std::string, FileRecord> files; ///< every file of the folder but the manifest
  TensorRecords parameters;
  TensorRecords optimizer_states;
};

/// The manifest as JSON text, which ends with a checksum of itself.
std::string serialise_manifest(const Manifest& manifest);

/// Parses and checks a manifest. Throws `Error`, naming the key, when the text is damaged, of
/// another format version, names a file that it does not list, or when pieces do not cover their
/// tensor.
Manifest parse_manifest(std::string_view text);

/// The same for the part of a manifest that one of several writers made: its pieces need not cover
/// their tensors.
Manifest parse_manifest_part(std::string_view text);

/// The files and pieces of all parts; step and program are those of the first. Throws `Error` where
/// parts contradict each other or do not cover a tensor together.
Manifest join_manifests(const std::vector<Manifest>& parts);

} // namespace baton::checkpoint
