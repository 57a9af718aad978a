// SPDX-License-Identifier: Apache-2.0
#include "baton/data/json_tokenizer.h"

#include <algorithm>
#include <utility>

#include "baton/base/error.h"
#include "baton/base/file.h"
#include "baton/data/template_tokens.h"
#include "baton/data/utf8.h"
#include "baton/data/word_cache.h"

namespace baton {

struct JsonTokenizer::Scratch {
  WordCache cache;
  TextArena arena;
  std::vector<TextPiece> pieces;
  NormalizedText normalized;
};

// A scratch for the time of one call.
class JsonTokenizer::Borrowed {
 public:
  explicit Borrowed(const JsonTokenizer& owner) : owner_(&owner) {
    const std::lock_guard<std::mutex> lock(owner.mutex_);
    if (!owner.idle_.empty()) {
      scratch_ = std::move(owner.idle_.back());
      owner.idle_.pop_back();
    } else {
      scratch_ = std::make_unique<Scratch>();
    }
  }
  ~Borrowed() {
    const std::lock_guard<std::mutex> lock(owner_->mutex_);
    owner_->idle_.push_back(std::move(scratch_));
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;

  Scratch& operator*() const { return *scratch_; }

 private:
  const JsonTokenizer* owner_;
  std::unique_ptr<Scratch> scratch_;
};

JsonTokenizer::JsonTokenizer(const std::string& text, const std::string& path) : path_(path) {
  const nlohmann::json json = parse_json(text, path);
  const JsonNode file(json, path);
  if (const auto version = file.find("version"); version && version->string() != "1.0") {
    version->fail("must be \"1.0\", not " + in_quotes(version->string()));
  }
  model_ = make_token_model(file.at("model"));
  if (const auto node = file.find("normalizer")) {
    normalizer_ = make_text_normalizer(*node);
  }
  if (const auto node = file.find("pre_tokenizer")) {
    pre_tokenizer_ = make_pre_tokenizer(*node);
  }
  if (const auto node = file.find("added_tokens")) {
    added_ = AddedTokens(*node, model_->vocabulary(), normalizer_.get());
  }
  decoder_.emplace(file.find("decoder"));
  vocab_size_ = model_->vocabulary().size();
  for (const AddedToken& token : added_.tokens()) {
    vocab_size_ = std::max<std::int64_t>(vocab_size_, token.id + 1);
  }
  SpecialTokens known;
  if (const auto node = file.find("post_processor")) {
    known = read_template_tokens(*node, vocab_size_);
  }
  special_ = read_special_tokens(
      path, known, [this](std::string_view token) { return id_of(token); }, vocab_size_);
  if (!special_.end_of_document) {
    throw Error(
        path +
        ": no token ends a document; name one as \"eos_token\" in a tokenizer_config.json "
        "beside it");
  }
}

JsonTokenizer::~JsonTokenizer() = default;

std::vector<std::string> JsonTokenizer::files() const {
  std::vector<std::string> files = special_token_files(path_);
  files.insert(files.begin(), path_);
  return files;
}

std::vector<std::int32_t> JsonTokenizer::encode(std::string_view text) const {
  if (!is_valid_utf8(text)) {
    return encode(to_valid_utf8(text));
  }
  constexpr std::size_t kUsualBytesPerToken = 3;
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / kUsualBytesPerToken + 1);
  const Borrowed scratch(*this);
  std::vector<AddedTokens::Part> parts;
  added_.split_original(text, parts);
  for (const AddedTokens::Part& part : parts) {
    if (part.id) {
      ids.push_back(*part.id);
    } else {
      encode_part(text.substr(part.begin, part.end - part.begin), part.begin == 0, *scratch, ids);
    }
  }
  return ids;
}

void JsonTokenizer::encode_part(
    std::string_view text,
    bool at_start,
    Scratch& scratch,
    std::vector<std::int32_t>& ids) const {
  if (normalizer_ != nullptr) {
    scratch.normalized.text = text;
    scratch.normalized.keeps_start = true;
    normalizer_->normalize(scratch.normalized);
    text = scratch.normalized.text;
    at_start = at_start && scratch.normalized.keeps_start;
  }
  std::vector<AddedTokens::Part> parts;
  added_.split_normalized(text, parts);
  for (const AddedTokens::Part& part : parts) {
    if (part.id) {
      ids.push_back(*part.id);
      continue;
    }
    scratch.arena.clear();
    scratch.pieces.assign(
        1, {text.substr(part.begin, part.end - part.begin), at_start && part.begin == 0});
    if (pre_tokenizer_ != nullptr) {
      pre_tokenizer_->cut(scratch.pieces, scratch.arena);
    }
    encode_pieces(scratch, ids);
  }
}

void JsonTokenizer::encode_pieces(Scratch& scratch, std::vector<std::int32_t>& ids) const {
  for (const TextPiece& piece : scratch.pieces) {
    if (piece.text.size() > WordCache::kLongestWord) {
      model_->encode(piece.text, ids);
      continue;
    }
    if (const auto known = scratch.cache.find(piece.text)) {
      ids.insert(ids.end(), known->begin(), known->end());
      continue;
    }
    const std::size_t begin = ids.size();
    model_->encode(piece.text, ids);
    scratch.cache.add(piece.text, std::span(ids).subspan(begin));
  }
}

std::optional<std::int32_t> JsonTokenizer::id_of(std::string_view text) const {
  for (const AddedToken& token : added_.tokens()) {
    if (token.content == text) {
      return token.id;
    }
  }
  return model_->vocabulary().id_of(text);
}

const std::string* JsonTokenizer::text_to_decode(std::int32_t id) const {
  static const std::string skipped;
  const AddedToken* added = added_.find(id);
  const std::string* text =
      added != nullptr ? &added->normalized_content : model_->vocabulary().text_of(id);
  return text != nullptr && added_.is_special(*text) ? &skipped : text;
}

std::string JsonTokenizer::token_bytes(std::int32_t id) const {
  const std::string* text = text_to_decode(id);
  if (text == nullptr) {
    return std::string(kReplacementCharacter);
  }
  return text->empty() ? "" : decoder_->bytes_of(*text);
}

class JsonTokenizer::Steps final : public Tokenizer::Decoding {
 public:
  explicit Steps(const JsonTokenizer& tokenizer)
      : tokenizer_(&tokenizer), steps_(tokenizer.decoder_->start()) {}

  std::string push(std::int32_t id) override {
    const std::string* token = tokenizer_->text_to_decode(id);
    std::string text;
    if (token == nullptr) {
      push_through(steps_, std::string(kReplacementCharacter), text);
    } else if (!token->empty()) {
      push_through(steps_, *token, text);
    }
    return text;
  }

  std::string finish() override {
    std::string text;
    finish_steps(steps_, text);
    return text;
  }

 private:
  const JsonTokenizer* tokenizer_;
  std::vector<std::unique_ptr<DecodeStep>> steps_;
};

std::unique_ptr<Tokenizer::Decoding> JsonTokenizer::start_decoding() const {
  return std::make_unique<Steps>(*this);
}

std::unique_ptr<const Tokenizer> read_json_tokenizer(const std::string& path) {
  return std::make_unique<JsonTokenizer>(read_file(path), path);
}

} // namespace baton
