// SPDX-License-Identifier: Apache-2.0
#include "baton/data/tokenizer.h"

#include <filesystem>
#include <system_error>

#include "baton/base/error.h"
#include "baton/data/json_node.h"
#include "baton/data/json_tokenizer.h"
#include "baton/data/sentencepiece_tokenizer.h"
#include "baton/data/utf8.h"

namespace baton {
namespace {

class JoinedBytes final : public Tokenizer::Decoding {
 public:
  explicit JoinedBytes(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  std::string push(std::int32_t id) override {
    pending_ += tokenizer_->token_bytes(id);
    return take_characters(pending_);
  }

  std::string finish() override {
    std::string rest(pending_.empty() ? "" : kReplacementCharacter);
    pending_.clear();
    return rest;
  }

 private:
  const Tokenizer* tokenizer_;
  std::string pending_; // the beginning of a character
};

} // namespace

std::unique_ptr<Tokenizer::Decoding> Tokenizer::start_decoding() const {
  return std::make_unique<JoinedBytes>(*this);
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  StreamingDecoder decoder(*this);
  std::string text;
  for (const std::int32_t id : ids) {
    text += decoder.push(id);
  }
  return text + decoder.finish();
}

std::vector<std::int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    ids[i] = static_cast<unsigned char>(text[i]);
  }
  return ids;
}

std::string ByteTokenizer::token_bytes(std::int32_t id) const {
  if (id == kEndOfDocument) {
    return "";
  }
  if (id < 0 || id > kEndOfDocument) {
    return std::string(kReplacementCharacter);
  }
  return std::string(1, static_cast<char>(id));
}

std::unique_ptr<const Tokenizer> make_tokenizer(const std::string& name) {
  if (name == "byte") {
    return std::make_unique<ByteTokenizer>();
  }
  std::error_code error;
  if (std::filesystem::is_directory(name, error)) {
    const auto found = find_tokenizer(name);
    if (!found) {
      throw Error(name + ": holds neither a tokenizer.json nor a .model file");
    }
    return make_tokenizer(*found);
  }
  if (name.ends_with(".json")) {
    return read_json_tokenizer(name);
  }
  if (name.ends_with(".model")) {
    return read_sentencepiece_tokenizer(name);
  }
  throw Error(
      "unknown tokenizer " + in_quotes(name) +
      "; known: byte, or the path of a tokenizer.json, of a .model file, or of a folder with one");
}

std::optional<std::string> find_tokenizer(const std::string& folder) {
  namespace fs = std::filesystem;
  for (const fs::path& place : {fs::path(folder), fs::path(folder) / "tokenizer"}) {
    std::error_code error;
    for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
      if (fs::is_regular_file(place / name, error)) {
        return (place / name).string();
      }
    }
    std::vector<std::string> models;
    for (fs::directory_iterator files(place, error); !error && files != fs::directory_iterator();
         files.increment(error)) {
      if (files->path().extension() == ".model") {
        models.push_back(files->path().string());
      }
    }
    if (models.size() == 1) {
      return models.front();
    }
  }
  return std::nullopt;
}

std::int64_t padded_vocab_size(std::int64_t vocab_size) {
  constexpr std::int64_t kMultiple = 64;
  return (vocab_size + kMultiple - 1) / kMultiple * kMultiple;
}

} // namespace baton
