// SPDX-License-Identifier: Apache-2.0
#include "baton/data/sentencepiece_tokenizer.h"

#include <algorithm>
#include <utility>

#include <sentencepiece_processor.h>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/data/json_node.h"
#include "baton/data/unicode.h"
#include "baton/data/utf8.h"
#include "baton/data/vocabulary.h"

namespace baton {
namespace {

using PieceType = SentencePieceFile::PieceType;

constexpr std::string_view kSpace = "\xE2\x96\x81"; // U+2581

std::string with_spaces(std::string_view piece) {
  std::string text;
  for (std::size_t at = 0; at < piece.size();) {
    if (piece.substr(at).starts_with(kSpace)) {
      text += ' ';
      at += kSpace.size();
    } else {
      text += piece[at++];
    }
  }
  return text;
}

std::unique_ptr<const sentencepiece::SentencePieceProcessor> load(
    const std::string& bytes,
    const std::string& path) {
  auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  const sentencepiece::util::Status status = processor->LoadFromSerializedProto(bytes);
  if (!status.ok()) {
    throw Error(
        path +
        ": the SentencePiece model is refused by the library: " + in_quotes(status.ToString()));
  }
  return processor;
}

} // namespace

SentencePieceTokenizer::SentencePieceTokenizer(const std::string& bytes, const std::string& path)
    : path_(path), file_(parse_sentencepiece_file(bytes, path)), processor_(load(bytes, path)) {
  SpecialTokens known;
  if (processor_->eos_id() >= 0) {
    known.end_of_document = processor_->eos_id();
  }
  if (processor_->bos_id() >= 0) {
    known.beginning_of_text = processor_->bos_id();
  }
  special_ = read_special_tokens(
      path, known, [this](std::string_view text) { return id_of(text); }, vocab_size());
  if (!special_.end_of_document) {
    throw Error(
        path +
        ": no token ends a document; name one as \"eos_token\" in a tokenizer_config.json "
        "beside it");
  }
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::vector<std::string> SentencePieceTokenizer::files() const {
  std::vector<std::string> files = special_token_files(path_);
  files.insert(files.begin(), path_);
  return files;
}

std::vector<std::int32_t> SentencePieceTokenizer::encode(std::string_view text) const {
  std::vector<int> ids;
  const sentencepiece::util::Status status = processor_->Encode({text.data(), text.size()}, &ids);
  if (!status.ok()) {
    throw RunError(path_ + ": SentencePiece cannot encode a text: " + in_quotes(status.ToString()));
  }
  return {ids.begin(), ids.end()};
}

std::string SentencePieceTokenizer::token_bytes(std::int32_t id) const {
  if (id < 0 || id >= vocab_size()) {
    return std::string(kReplacementCharacter);
  }
  const SentencePieceFile::Piece& piece = file_.pieces[static_cast<std::size_t>(id)];
  switch (piece.type) {
    case PieceType::kControl:
      return "";
    case PieceType::kUnknown:
      return file_.unknown_surface;
    case PieceType::kByte:
      return std::string(1, static_cast<char>(*byte_of_token(piece.text)));
    default:
      return with_spaces(piece.text);
  }
}

std::optional<std::int32_t> SentencePieceTokenizer::id_of(std::string_view text) const {
  for (std::size_t id = 0; id < file_.pieces.size(); ++id) {
    if (file_.pieces[id].text == text) {
      return static_cast<std::int32_t>(id);
    }
  }
  return std::nullopt;
}

// The library's decoding, token by token: the space that it puts before a text goes again, and each
// byte that is part of no character becomes U+FFFD.
class SentencePieceTokenizer::Surfaces final : public Tokenizer::Decoding {
 public:
  explicit Surfaces(const SentencePieceTokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  std::string push(std::int32_t id) override {
    const SentencePieceFile& file = tokenizer_->file_;
    const bool known = id >= 0 && id < tokenizer_->vocab_size();
    const PieceType type =
        known ? file.pieces[static_cast<std::size_t>(id)].type : PieceType::kUnused;
    std::string surface = tokenizer_->token_bytes(id);
    if (type == PieceType::kByte) {
      bytes_ += surface;
      return note(take_bytes(false));
    }
    std::string text = note(take_bytes(true));
    if (space_seen_ || any_text_) {
      at_start_ = false;
    }
    space_seen_ = false;
    const bool drops = file.add_dummy_prefix || file.remove_extra_whitespaces;
    const bool is_text = type != PieceType::kControl && type != PieceType::kUnknown;
    if (at_start_ && drops && is_text && surface.starts_with(' ')) {
      surface.erase(0, 1);
      space_seen_ = !file.remove_extra_whitespaces;
    }
    return text + note(std::move(surface));
  }

  std::string finish() override { return note(take_bytes(true)); }

 private:
  std::string note(std::string text) {
    any_text_ = any_text_ || !text.empty();
    return text;
  }

  std::string take_bytes(bool all) {
    std::string text;
    while (!bytes_.empty()) {
      const std::size_t size = unicode::character_size(bytes_[0]);
      if (bytes_.size() < size && !all) {
        break;
      }
      const std::string character = bytes_.substr(0, size);
      const bool valid = character.size() == size && is_valid_utf8(character);
      text += valid ? character : std::string(kReplacementCharacter);
      bytes_.erase(0, valid ? size : 1);
    }
    return text;
  }

  const SentencePieceTokenizer* tokenizer_;
  std::string bytes_; // the beginning of a character
  bool at_start_ = true;
  bool space_seen_ = false;
  bool any_text_ = false;
};

std::unique_ptr<Tokenizer::Decoding> SentencePieceTokenizer::start_decoding() const {
  return std::make_unique<Surfaces>(*this);
}

std::unique_ptr<const Tokenizer> read_sentencepiece_tokenizer(const std::string& path) {
  return std::make_unique<SentencePieceTokenizer>(read_file(path), path);
}

} // namespace baton
