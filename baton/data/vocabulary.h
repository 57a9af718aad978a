// SPDX-License-Identifier: Apache-2.0
// Texts of tokens and their ids.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace baton {

/// A table of texts by id and ids by text. Ids may leave gaps.
class Vocabulary {
 public:
  /// Ids beyond it belong to no vocabulary that could be trained.
  static constexpr std::int64_t kLargestId = (std::int64_t{1} << 24) - 1;

  /// Throws Error when the id has another text.
  void add(const std::string& text, std::int32_t id);

  std::optional<std::int32_t> id_of(std::string_view text) const;
  /// The text of an id, or nullptr.
  const std::string* text_of(std::int32_t id) const;

  /// Texts in it.
  std::size_t count() const { return ids_.size(); }
  /// Ids lie in [0, size).
  std::int64_t size() const { return static_cast<std::int64_t>(texts_.size()); }

  /// Whether it has "<0x00>" to "<0xFF>", of which byte_id() gives one; -1 for those it lacks.
  std::int32_t byte_id(unsigned char byte) const { return byte_ids_[byte]; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };

  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> texts_; // keys of `ids_`, which stay where they are
  std::array<std::int32_t, 256> byte_ids_ = no_byte_ids();

  static std::array<std::int32_t, 256> no_byte_ids() {
    std::array<std::int32_t, 256> ids{};
    ids.fill(-1);
    return ids;
  }
};

/// The byte that a token such as "<0x0A>" stands for.
std::optional<unsigned char> byte_of_token(std::string_view text);

} // namespace baton
