// SPDX-License-Identifier: Apache-2.0
#include "baton/data/document_encoder.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "baton/base/error.h"

namespace baton {
namespace {

using nlohmann::json;

// Beyond it the ids would not fit the format's 31 bits, and memory is at stake before that.
constexpr std::size_t kLargestDocument = std::size_t{1} << 30;

const std::string& string_of(const json& value, std::string_view field) {
  if (!value.is_string()) {
    throw Error("\"" + std::string(field) + "\" must be a string, not " + value.type_name());
  }
  return value.get_ref<const std::string&>();
}

std::string place_of(const CorpusSlice& slice, std::size_t offset) {
  const std::string_view before = slice.file->text().substr(0, offset);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  return slice.file->path() + ":" + std::to_string(line);
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

} // namespace

DocumentEncoder::DocumentEncoder(const Tokenizer& tokenizer, std::string field)
    : tokenizer_(&tokenizer), field_(std::move(field)) {}

std::vector<EncodedDocument> DocumentEncoder::encode(const CorpusSlice& slice) const {
  std::vector<EncodedDocument> documents;
  const auto keep = [&documents](EncodedDocument document) {
    if (!document.tokens.empty()) {
      documents.push_back(std::move(document));
    }
  };
  const std::string_view text = slice.text();
  if (!slice.json_lines) {
    if (text.size() > kLargestDocument) {
      throw Error(
          place_of(slice, slice.begin) + ": a document of " + std::to_string(text.size()) +
          " bytes, the limit is " + std::to_string(kLargestDocument) +
          ": split it (--split-documents)");
    }
    keep(encode_text(text));
    return documents;
  }
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    try {
      if (!is_blank(line)) {
        keep(encode_record(line));
      }
    } catch (const json::parse_error& error) {
      throw Error(
          place_of(slice, slice.begin + begin) + ": not valid JSON at byte " +
          std::to_string(error.byte) + " of the line");
    } catch (const Error& error) {
      throw Error(place_of(slice, slice.begin + begin) + ": " + error.what());
    }
    begin = end + 1;
  }
  return documents;
}

EncodedDocument DocumentEncoder::encode_text(std::string_view text) const {
  EncodedDocument document;
  if (!text.empty()) {
    document.tokens = tokenizer_->encode(text);
    document.tokens.push_back(tokenizer_->end_of_document());
  }
  return document;
}

EncodedDocument DocumentEncoder::encode_record(std::string_view line) const {
  const json record = json::parse(line);
  if (!record.is_object()) {
    throw Error(std::string("must be a JSON object, not ") + record.type_name());
  }
  if (const auto text = record.find(field_); text != record.end()) {
    return encode_text(string_of(*text, field_));
  }
  const auto prompt = record.find("prompt");
  const auto completion = record.find("completion");
  if (prompt == record.end() || completion == record.end()) {
    throw Error("has neither \"" + field_ + "\" nor \"prompt\" and \"completion\"");
  }
  const std::string& given = string_of(*prompt, "prompt");
  const std::string& wanted = string_of(*completion, "completion");
  if (wanted.empty()) {
    return {}; // nothing in it that the loss would count
  }
  // Encoded apart, as at generation, where the prompt is all there is.
  EncodedDocument document;
  document.tokens = tokenizer_->encode(given);
  document.mask.assign(document.tokens.size(), 0);
  const std::vector<std::int32_t> answer = tokenizer_->encode(wanted);
  document.tokens.insert(document.tokens.end(), answer.begin(), answer.end());
  document.tokens.push_back(tokenizer_->end_of_document());
  document.mask.resize(document.tokens.size(), 1);
  return document;
}

} // namespace baton
