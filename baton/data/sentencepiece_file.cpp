// SPDX-License-Identifier: Apache-2.0
#include "baton/data/sentencepiece_file.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "baton/base/error.h"
#include "baton/data/charsmap.h"
#include "baton/data/json_node.h"
#include "baton/data/utf8.h"
#include "baton/data/vocabulary.h"

namespace baton {
namespace {

// One field of a message: its number, and its value as a number or as bytes.
struct Field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;
  std::string_view bytes;
};

// The fields of a message, one after the other.
class Message {
 public:
  explicit Message(std::string_view bytes) : rest_(bytes) {}

  std::optional<Field> next() {
    if (rest_.empty()) {
      return std::nullopt;
    }
    constexpr int kWireBits = 3;
    const std::uint64_t key = varint();
    Field field;
    field.number = key >> kWireBits;
    switch (key & ((1U << kWireBits) - 1)) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed<std::uint64_t>();
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        field.value = fixed<std::uint32_t>();
        break;
      default:
        throw Error("has a field of an unknown kind");
    }
    return field;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) {
        return value;
      }
    }
    throw Error("has a number without end");
  }

  template <class Value>
  Value fixed() {
    Value value = 0;
    std::memcpy(&value, take(sizeof(value)).data(), sizeof(value));
    return value;
  }

  std::string_view take(std::uint64_t size) {
    if (size > rest_.size()) {
      throw Error("ends within a field");
    }
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  std::string_view rest_;
};

SentencePieceFile::Piece read_piece(std::string_view bytes) {
  SentencePieceFile::Piece piece;
  Message message(bytes);
  while (const auto field = message.next()) {
    if (field->number == 1) {
      piece.text = field->bytes;
    } else if (field->number == 2) {
      float score = 0.0F;
      const auto bits = static_cast<std::uint32_t>(field->value);
      std::memcpy(&score, &bits, sizeof(score));
      if (!std::isfinite(score)) {
        throw Error("has a piece whose score is not finite");
      }
    } else if (field->number == 3) {
      if (field->value < 1 || field->value > 6) {
        throw Error("has a piece of unknown type " + std::to_string(field->value));
      }
      piece.type = static_cast<SentencePieceFile::PieceType>(field->value);
    }
  }
  if (piece.text.empty() || !is_valid_utf8(piece.text) ||
      piece.text.find('\0') != std::string::npos) {
    throw Error("has a piece that is no text: " + in_quotes(piece.text));
  }
  return piece;
}

void read_trainer_spec(std::string_view bytes, SentencePieceFile& file) {
  constexpr std::uint64_t kUnigram = 1;
  constexpr std::uint64_t kBpe = 2;
  Message message(bytes);
  while (const auto field = message.next()) {
    if (field->number == 3 && field->value != kUnigram && field->value != kBpe) {
      throw Error(
          "is a model of type " + std::to_string(field->value) +
          ", which is not supported; known: 1 (unigram), 2 (BPE)");
    }
    if (field->number == 44) {
      file.unknown_surface = field->bytes;
    }
  }
}

void read_normalizer_spec(std::string_view bytes, SentencePieceFile& file) {
  Message message(bytes);
  while (const auto field = message.next()) {
    if (field->number == 2 && !field->bytes.empty()) {
      Charsmap(field->bytes).check_every_search();
    } else if (field->number == 3) {
      file.add_dummy_prefix = field->value != 0;
    } else if (field->number == 4) {
      file.remove_extra_whitespaces = field->value != 0;
    }
  }
}

void refuse_denormalizer(std::string_view bytes) {
  Message message(bytes);
  while (const auto field = message.next()) {
    if (field->number == 2 && !field->bytes.empty()) {
      throw Error("has a denormalizer_spec with a character map, which is not supported");
    }
  }
}

void check_pieces(const SentencePieceFile& file) {
  if (static_cast<std::int64_t>(file.pieces.size()) > Vocabulary::kLargestId) {
    throw Error("has " + std::to_string(file.pieces.size()) + " pieces, which are too many");
  }
  std::unordered_set<std::string_view> seen;
  std::size_t unknown = 0;
  for (const SentencePieceFile::Piece& piece : file.pieces) {
    if (!seen.insert(piece.text).second) {
      throw Error("has the piece " + in_quotes(piece.text) + " twice");
    }
    unknown += piece.type == SentencePieceFile::PieceType::kUnknown ? 1 : 0;
    if (piece.type == SentencePieceFile::PieceType::kByte && !byte_of_token(piece.text)) {
      throw Error("has a byte piece that names no byte: " + in_quotes(piece.text));
    }
  }
  if (unknown != 1) {
    throw Error("must have one piece for what is unknown, not " + std::to_string(unknown));
  }
}

} // namespace

SentencePieceFile parse_sentencepiece_file(std::string_view bytes, const std::string& path) {
  SentencePieceFile file;
  try {
    Message message(bytes);
    while (const auto field = message.next()) {
      if (field->number == 1) {
        file.pieces.push_back(read_piece(field->bytes));
      } else if (field->number == 2) {
        read_trainer_spec(field->bytes, file);
      } else if (field->number == 3) {
        read_normalizer_spec(field->bytes, file);
      } else if (field->number == 5) {
        refuse_denormalizer(field->bytes);
      }
    }
    check_pieces(file);
  } catch (const Error& error) {
    throw Error(path + ": the SentencePiece model " + error.what());
  }
  return file;
}

} // namespace baton
