// SPDX-License-Identifier: Apache-2.0
// Cuts the text of one file into documents and runs of lines, while it streams in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "baton/data/byte_source.h"

namespace baton {

/// Where a text file's documents end. JSON lines have one document a line.
struct DocumentSplit {
  enum class Kind {
    kFile,      ///< a file is a document
    kBlankLine, ///< documents are separated by lines without text
    kLine,      ///< documents are separated by lines that are equal to `line`
  };
  Kind kind = Kind::kFile;
  std::string line;
};

/// "file", "blank-line" or "line=TEXT". Throws Error for anything else.
DocumentSplit parse_document_split(const std::string& text);

/// A part of a file.
struct TextPart {
  std::string text;
  std::int64_t first_line = 1; ///< its number in the file, from 1
  bool too_long = false;       ///< a line beyond the limit, whose text was passed over
};

/// What is read is a function of the text alone, not of the sizes in which the source hands it out.
/// Memory is the part under way and a block.
class TextReader {
 public:
  /// Documents and lines are at most `largest` bytes long. `name` stands for the file in errors.
  TextReader(std::unique_ptr<ByteSource> source, std::string name, std::size_t largest);

  /// Why the file is no text, judged by its beginning; nothing when it is. Before any part is
  /// taken.
  std::optional<std::string> objection();

  /// The next whole lines, together at least `bytes` long unless the file ends; one line alone that
  /// is too long comes as such. Nothing at the end.
  std::optional<TextPart> next_lines(std::size_t bytes);

  /// The next document that is not blank. Throws Error for one that is too long.
  std::optional<TextPart> next_document(const DocumentSplit& split);

  /// Bytes of the file that were read so far.
  std::int64_t consumed() const { return source_->consumed(); }

 private:
  bool fill();
  std::size_t end_of_line(std::size_t begin);
  TextPart take(std::size_t end);
  TextPart pass_over_line();
  [[noreturn]] void refuse_document() const;

  std::unique_ptr<ByteSource> source_;
  std::string name_;
  std::size_t largest_;
  std::string buffer_;
  std::size_t begin_ = 0; // of what was not taken yet
  std::int64_t line_ = 1;
  bool ended_ = false;
};

} // namespace baton
