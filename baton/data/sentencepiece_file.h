// SPDX-License-Identifier: Apache-2.0
// What stands in a SentencePiece .model file, checked before the library gets it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// The parts of a ModelProto (sentencepiece_model.proto) that matter here.
struct SentencePieceFile {
  enum class PieceType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

  struct Piece {
    std::string text;
    PieceType type = PieceType::kNormal;
  };

  std::vector<Piece> pieces;    ///< by id
  bool add_dummy_prefix = true; ///< a space stands before a text that has none
  bool remove_extra_whitespaces = true;
  std::string unknown_surface = " \xE2\x81\x87 "; ///< what an unknown token decodes to
};

/// Reads the wire format of Protocol Buffers. Throws Error that names the file for bytes that are
/// damaged, for a model that is neither BPE nor unigram, and for a character map or vocabulary that
/// the library would not survive.
SentencePieceFile parse_sentencepiece_file(std::string_view bytes, const std::string& path);

} // namespace baton
