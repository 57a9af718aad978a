// SPDX-License-Identifier: Apache-2.0
#include "baton/data/special_tokens.h"

#include <filesystem>
#include <system_error>

#include <nlohmann/json.hpp>

#include "baton/base/file.h"
#include "baton/data/json_node.h"

namespace baton {
namespace {

using IdOf = std::function<std::optional<std::int32_t>(std::string_view)>;

constexpr const char* kConfig = "tokenizer_config.json";
constexpr const char* kMap = "special_tokens_map.json";
constexpr const char* kGeneration = "generation_config.json";

// Ends of documents in vocabularies that no file describes.
constexpr const char* kCommonNames[] =
    {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|im_end|>"};

std::optional<nlohmann::json> read_beside(const std::string& tokenizer_path, const char* name) {
  const std::filesystem::path path = std::filesystem::path(tokenizer_path).parent_path() / name;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return std::nullopt;
  }
  return parse_json(read_file(path.string()), path.string());
}

// A token is its text or an object with its "content".
std::optional<std::int32_t> token_of(const JsonNode& file, const char* key, const IdOf& id_of) {
  const auto value = file.find(key);
  if (!value) {
    return std::nullopt;
  }
  const bool in_object = file.object().at(key).is_object();
  const std::string& text = in_object ? value->at("content").string() : value->string();
  const auto id = id_of(text);
  if (!id) {
    value->fail("is not in the vocabulary: " + in_quotes(text));
  }
  return id;
}

// An id or a list of them, of which the first counts.
std::optional<std::int32_t> first_id(const JsonNode& file, const char* key, std::int64_t size) {
  const auto value = file.find(key);
  if (!value) {
    return std::nullopt;
  }
  if (!file.object().at(key).is_array()) {
    return static_cast<std::int32_t>(value->integer(size - 1));
  }
  const std::vector<JsonNode> ids = value->list();
  return ids.empty() ? std::nullopt
                     : std::optional(static_cast<std::int32_t>(ids[0].integer(size - 1)));
}

} // namespace

std::vector<std::string> special_token_files(const std::string& tokenizer_path) {
  std::vector<std::string> files;
  for (const char* name : {kConfig, kMap, kGeneration}) {
    const auto path = std::filesystem::path(tokenizer_path).parent_path() / name;
    std::error_code error;
    if (std::filesystem::is_regular_file(path, error)) {
      files.push_back(path.string());
    }
  }
  return files;
}

SpecialTokens read_special_tokens(
    const std::string& tokenizer_path,
    const SpecialTokens& known,
    const IdOf& id_of,
    std::int64_t vocab_size) {
  const auto beside = [&](const char* name) {
    return (std::filesystem::path(tokenizer_path).parent_path() / name).string();
  };
  std::optional<std::int32_t> end;
  std::optional<std::int32_t> beginning;
  std::optional<bool> adds_beginning;
  for (const char* name : {kConfig, kMap}) {
    if (const auto json = read_beside(tokenizer_path, name)) {
      const JsonNode file(*json, beside(name));
      end = end ? end : token_of(file, "eos_token", id_of);
      beginning = beginning ? beginning : token_of(file, "bos_token", id_of);
      if (file.find("add_bos_token")) {
        adds_beginning = file.at("add_bos_token").boolean();
      }
    }
  }
  std::optional<std::int32_t> end_of_answer;
  if (const auto json = read_beside(tokenizer_path, kGeneration)) {
    end_of_answer = first_id(JsonNode(*json, beside(kGeneration)), "eos_token_id", vocab_size);
  }
  SpecialTokens tokens = known;
  if (end || end_of_answer) {
    tokens.end_of_document = end ? end : end_of_answer;
  }
  for (const char* name : kCommonNames) {
    if (!tokens.end_of_document) {
      tokens.end_of_document = id_of(name);
    }
  }
  if (adds_beginning) {
    tokens.beginning_of_text =
        *adds_beginning ? (beginning ? beginning : tokens.beginning_of_text) : std::nullopt;
  }
  tokens.end_of_text = end_of_answer ? end_of_answer : tokens.end_of_document;
  return tokens;
}

} // namespace baton
