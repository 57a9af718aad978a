// SPDX-License-Identifier: Apache-2.0
// Small tokenizer.json files for tests.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "baton/data/json_tokenizer.h"

namespace baton {

/// A BPE vocabulary of single characters (each a token), the given merges of "left right" and an
/// end token "</s>"; ids in that order, from 0.
inline nlohmann::json example_file(
    const std::vector<std::string>& characters,
    const std::vector<std::string>& merges = {}) {
  nlohmann::json vocabulary = nlohmann::json::object();
  for (const std::string& character : characters) {
    vocabulary[character] = vocabulary.size();
  }
  for (std::string merge : merges) {
    merge.erase(merge.find(' '), 1);
    vocabulary[merge] = vocabulary.size();
  }
  vocabulary["</s>"] = vocabulary.size();
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens",
       {{{"id", vocabulary["</s>"]},
         {"content", "</s>"},
         {"single_word", false},
         {"lstrip", false},
         {"rstrip", false},
         {"normalized", false},
         {"special", true}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder", {{"type", "Fuse"}}},
      {"model",
       {{"type", "BPE"}, {"unk_token", nullptr}, {"vocab", vocabulary}, {"merges", merges}}}};
}

inline JsonTokenizer tokenizer_of(const nlohmann::json& file) {
  return {file.dump(), "no_such_folder/tokenizer.json"};
}

/// The texts of the tokens that a text is encoded as.
inline std::vector<std::string> tokens_of(const nlohmann::json& file, const std::string& text) {
  const JsonTokenizer tokenizer = tokenizer_of(file);
  const nlohmann::json& vocabulary = file["model"]["vocab"];
  std::vector<std::string> tokens;
  for (const std::int32_t id : tokenizer.encode(text)) {
    for (const auto& [token, value] : vocabulary.items()) {
      if (value == id) {
        tokens.push_back(token);
      }
    }
  }
  return tokens;
}

} // namespace baton
