// SPDX-License-Identifier: Apache-2.0
#include "baton/data/vocabulary.h"

#include "baton/base/error.h"
#include "baton/data/json_node.h"

namespace baton {
namespace {

int digit_of(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                : -1;
}

} // namespace

void Vocabulary::add(const std::string& text, std::int32_t id) {
  const auto [entry, is_new] = ids_.emplace(text, id);
  if (!is_new && entry->second != id) {
    throw Error(
        "token " + in_quotes(text) + " stands twice, as " + std::to_string(entry->second) +
        " and " + std::to_string(id));
  }
  const auto index = static_cast<std::size_t>(id);
  if (index >= texts_.size()) {
    texts_.resize(index + 1, nullptr);
  }
  if (texts_[index] != nullptr && *texts_[index] != text) {
    throw Error(
        "id " + std::to_string(id) + " is both " + in_quotes(*texts_[index]) + " and " +
        in_quotes(text));
  }
  texts_[index] = &entry->first;
  const auto byte = byte_of_token(text);
  if (byte && text[3] < 'a' && text[4] < 'a') {
    byte_ids_[*byte] = id; // encoders look for capital digits only
  }
}

std::optional<std::int32_t> Vocabulary::id_of(std::string_view text) const {
  const auto found = ids_.find(text);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* Vocabulary::text_of(std::int32_t id) const {
  const auto index = static_cast<std::size_t>(id);
  return id >= 0 && index < texts_.size() ? texts_[index] : nullptr;
}

std::optional<unsigned char> byte_of_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') {
    return std::nullopt;
  }
  const int high = digit_of(text[3]);
  const int low = digit_of(text[4]);
  if (low < 0 || high < 0) {
    return std::nullopt;
  }
  return static_cast<unsigned char>(high * 16 + low);
}

} // namespace baton
