// SPDX-License-Identifier: Apache-2.0
#include "baton/data/text_reader.h"

#include <algorithm>
#include <utility>

#include "baton/base/error.h"

namespace baton {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 18;
// Where a zero byte marks a file as something other than text.
constexpr std::size_t kBinaryProbe = 8192;
constexpr std::string_view kLinePrefix = "line=";
constexpr std::size_t kNone = std::string::npos;

bool is_separator(std::string_view line, const DocumentSplit& split) {
  if (split.kind == DocumentSplit::Kind::kBlankLine) {
    return line.find_first_not_of(" \t\r\n\f\v") == kNone;
  }
  while (line.ends_with('\n') || line.ends_with('\r')) {
    line.remove_suffix(1);
  }
  return line == split.line;
}

} // namespace

DocumentSplit parse_document_split(const std::string& text) {
  if (text == "file") {
    return {};
  }
  if (text == "blank-line") {
    return {DocumentSplit::Kind::kBlankLine, ""};
  }
  if (text.starts_with(kLinePrefix) && text.size() > kLinePrefix.size()) {
    return {DocumentSplit::Kind::kLine, text.substr(kLinePrefix.size())};
  }
  throw Error(
      "documents are split by \"file\", \"blank-line\" or \"line=TEXT\", not by \"" + text + "\"");
}

TextReader::TextReader(std::unique_ptr<ByteSource> source, std::string name, std::size_t largest)
    : source_(std::move(source)), name_(std::move(name)), largest_(largest) {}

// Appends a block; false at the end of the file.
bool TextReader::fill() {
  if (ended_) {
    return false;
  }
  // What was taken goes once it is as much as what stays, so that each byte moves once at most.
  if (begin_ >= buffer_.size() - begin_) {
    buffer_.erase(0, begin_);
    begin_ = 0;
  }
  const std::size_t before = buffer_.size();
  buffer_.resize(before + kBlockBytes);
  const std::size_t got = source_->read(buffer_.data() + before, kBlockBytes);
  buffer_.resize(before + got);
  ended_ = got == 0;
  return !ended_;
}

std::optional<std::string> TextReader::objection() {
  while (buffer_.size() < kBinaryProbe && fill()) {
  }
  if (buffer_.empty()) {
    return "is empty";
  }
  const std::size_t zero = std::string_view(buffer_).substr(0, kBinaryProbe).find('\0');
  if (zero != kNone) {
    return "looks like binary data, not text (a zero byte at offset " + std::to_string(zero) + ")";
  }
  return std::nullopt;
}

// The place behind the line that holds offset `from` of what was not taken yet, relative to it; the
// end of the text where no line break follows, kNone where none follows within the limit.
std::size_t TextReader::end_of_line(std::size_t from) {
  std::size_t searched = from;
  for (;;) {
    const std::size_t at = buffer_.find('\n', begin_ + searched);
    if (at != kNone) {
      return at + 1 - begin_;
    }
    searched = buffer_.size() - begin_;
    if (searched - from > largest_) {
      return kNone;
    }
    if (!fill()) {
      return searched;
    }
  }
}

TextPart TextReader::take(std::size_t end) {
  TextPart part{.text = buffer_.substr(begin_, end), .first_line = line_};
  line_ += std::count(part.text.begin(), part.text.end(), '\n');
  begin_ += end;
  return part;
}

std::optional<TextPart> TextReader::next_lines(std::size_t bytes) {
  bytes = std::min(bytes, largest_); // so that no line in it is longer
  while (buffer_.size() - begin_ < bytes && fill()) {
  }
  const std::size_t there = std::min(bytes, buffer_.size() - begin_);
  if (there == 0) {
    return std::nullopt;
  }
  // Whole lines within `bytes`, and the rest of the one that is cut by it.
  const std::string_view text = std::string_view(buffer_).substr(begin_, there);
  const std::size_t whole = text.ends_with('\n') ? there : text.rfind('\n') + 1;
  if (whole == there) {
    return take(whole);
  }
  const std::size_t end = end_of_line(whole);
  if (end != kNone && end - whole <= largest_) {
    return take(end);
  }
  return whole > 0 ? take(whole) : pass_over_line();
}

// The line that begins here is too long: it streams past.
TextPart TextReader::pass_over_line() {
  TextPart part{.text = "", .first_line = line_, .too_long = true};
  std::size_t at = kNone;
  while ((at = buffer_.find('\n', begin_)) == kNone) {
    begin_ = buffer_.size();
    if (!fill()) {
      return part;
    }
  }
  begin_ = at + 1;
  ++line_;
  return part;
}

void TextReader::refuse_document() const {
  throw Error(
      name_ + ":" + std::to_string(line_) + ": a document of more than " +
      std::to_string(largest_) + " bytes: split it (--split-documents)");
}

std::optional<TextPart> TextReader::next_document(const DocumentSplit& split) {
  if (split.kind == DocumentSplit::Kind::kFile) {
    while (buffer_.size() - begin_ <= largest_ && fill()) {
    }
    const std::size_t size = buffer_.size() - begin_;
    if (size > largest_) {
      refuse_document();
    }
    return size > 0 ? std::optional(take(size)) : std::nullopt;
  }
  std::size_t size = 0; // of the document so far
  for (;;) {
    const std::size_t end = end_of_line(size);
    if (end == kNone || end > largest_) {
      refuse_document();
    }
    if (end == size) {
      return size > 0 ? std::optional(take(size)) : std::nullopt;
    }
    const std::string_view line = std::string_view(buffer_).substr(begin_ + size, end - size);
    if (!is_separator(line, split)) {
      size = end;
      continue;
    }
    if (size > 0) {
      TextPart part = take(size);
      begin_ += end - size;
      ++line_;
      return part;
    }
    // Blank documents between two separators are passed over.
    begin_ += end;
    ++line_;
  }
}

} // namespace baton
