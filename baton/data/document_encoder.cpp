// SPDX-License-Identifier: Apache-2.0
#include "baton/data/document_encoder.h"

#include <algorithm>
#include <utility>

#include "baton/base/error.h"
#include "baton/data/json_record.h"

namespace baton {
namespace {

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

void keep(EncodedDocument document, EncodedSlice& encoded) {
  if (!document.tokens.empty()) {
    encoded.documents.push_back(std::move(document));
  }
}

} // namespace

DocumentEncoder::DocumentEncoder(const Tokenizer& tokenizer, EncoderConfig config)
    : tokenizer_(&tokenizer), config_(std::move(config)) {}

EncodedSlice DocumentEncoder::encode(const CorpusSlice& slice) const {
  if (slice.json_lines) {
    return encode_lines(slice);
  }
  EncodedSlice encoded;
  keep(encode_text(slice.part.text), encoded);
  return encoded;
}

EncodedSlice DocumentEncoder::encode_lines(const CorpusSlice& slice) const {
  EncodedSlice encoded;
  std::int64_t number = slice.part.first_line;
  const auto refuse = [&](const std::string& what) {
    const std::string message = *slice.path + ":" + std::to_string(number) + ": " + what;
    if (config_.bad_lines == BadLines::kFail) {
      throw Error(message);
    }
    encoded.bad_lines.push_back(message);
  };
  if (slice.part.too_long) {
    refuse("a line of more than " + std::to_string(config_.largest_document) + " bytes");
  }
  const std::string_view text = slice.part.text;
  for (std::size_t begin = 0; begin < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (is_blank(line)) {
      continue;
    }
    EncodedDocument document;
    try {
      document = encode_record(line);
    } catch (const Error& error) {
      refuse(error.what());
      continue;
    }
    keep(std::move(document), encoded);
  }
  return encoded;
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
  const JsonRecord record = parse_json_record(line, config_.field);
  if (record.text) {
    return encode_text(*record.text);
  }
  if (record.completion.empty()) {
    return {}; // nothing in it that the loss would count
  }
  // Encoded apart, as at generation, where the prompt is all there is.
  EncodedDocument document;
  document.tokens = tokenizer_->encode(record.prompt);
  document.mask.assign(document.tokens.size(), 0);
  const std::vector<std::int32_t> answer = tokenizer_->encode(record.completion);
  document.tokens.insert(document.tokens.end(), answer.begin(), answer.end());
  document.tokens.push_back(tokenizer_->end_of_document());
  document.mask.resize(document.tokens.size(), 1);
  return document;
}

} // namespace baton
