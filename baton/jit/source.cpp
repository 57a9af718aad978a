// SPDX-License-Identifier: Apache-2.0
#include "baton/jit/source.h"

#include <map>

#include "baton/base/error.h"
#include "baton/base/nearest.h"

namespace baton::jit {
namespace {

constexpr std::string_view kBlanks = " \t";

std::string_view without_blanks(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin);
}

// Takes `start` off the text, and blanks before it; false where the text begins otherwise.
bool take(std::string_view& text, std::string_view start) {
  const std::string_view rest = without_blanks(text);
  if (rest.substr(0, start.size()) != start) {
    return false;
  }
  text = rest.substr(start.size());
  return true;
}

// Headers of the project that a text includes. One in a comment or behind an #if counts as well: it
// costs a file in the key, never one that is missing.
std::vector<std::string> includes_of(std::string_view text) {
  std::vector<std::string> names;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    if (take(line, "#") && take(line, "include") && take(line, "\"baton/")) {
      names.push_back("baton/" + std::string(line.substr(0, line.find('"'))));
    }
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return names;
}

const EmbeddedFile&
find_file(std::span<const EmbeddedFile> files, const std::string& name, const std::string& asker) {
  std::vector<std::string> known;
  for (const EmbeddedFile& file : files) {
    if (name == file.name) {
      return file;
    }
    known.emplace_back(file.name);
  }
  const std::string nearest = nearest_name(name, known);
  throw Error(
      asker + "no device source " + name + " is part of this build" +
      (nearest.empty() ? "" : "; did you mean " + nearest + "?"));
}

void add_headers(
    std::span<const EmbeddedFile> files,
    const EmbeddedFile& file,
    std::map<std::string, SourceFile>& headers) {
  for (const std::string& name : includes_of(file.text)) {
    if (headers.count(name) == 0) {
      const EmbeddedFile& header = find_file(files, name, std::string(file.name) + ": ");
      headers[name] = {name, std::string(header.text)};
      add_headers(files, header, headers);
    }
  }
}

} // namespace

DeviceSource find_source(std::span<const EmbeddedFile> files, const std::string& name) {
  const EmbeddedFile& file = find_file(files, name, "");
  std::map<std::string, SourceFile> headers;
  add_headers(files, file, headers);
  DeviceSource found;
  found.source = {name, std::string(file.text)};
  for (auto& [header_name, header] : headers) {
    found.headers.push_back(std::move(header));
  }
  return found;
}

DeviceSource device_source(const std::string& name) {
  return find_source(embedded_files(), name);
}

} // namespace baton::jit
