// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/cache_key.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "baton/base/sha256.h"
#include "baton/jit/cache_entry.h"

namespace baton::jit {
namespace {

// Every part with its length before it, so that no two lists of parts read the same.
void append_part(std::string& text, std::string_view part) {
  text += std::to_string(part.size());
  text += ':';
  text += part;
}

void append_file(std::string& text, const SourceFile& file) {
  append_part(text, file.name);
  append_part(text, file.text);
}

} // namespace

std::string cache_key(const CompileRequest& request, const std::string& compiler_version) {
  std::vector<const SourceFile*> headers;
  for (const SourceFile& header : request.headers) {
    headers.push_back(&header);
  }
  std::sort(headers.begin(), headers.end(), [](const SourceFile* a, const SourceFile* b) {
    return a->name < b->name;
  });
  std::string text;
  append_part(text, std::to_string(kEntryFormat));
  append_part(text, compiler_version);
  append_part(text, request.arch);
  append_part(text, request.entry);
  append_part(text, std::to_string(request.options.size()));
  for (const std::string& option : request.options) {
    append_part(text, option);
  }
  append_file(text, request.source);
  for (const SourceFile* header : headers) {
    append_file(text, *header);
  }
  return sha256_hex(text);
}

} // namespace baton::jit
