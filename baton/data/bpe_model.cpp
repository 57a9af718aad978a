// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <limits>
#include <queue>
#include <tuple>
#include <utility>

#include "baton/base/error.h"
#include "baton/data/merge_table.h"
#include "baton/data/token_model.h"
#include "baton/data/unicode.h"

namespace baton {
namespace {

constexpr std::uint32_t kNoRank = std::numeric_limits<std::uint32_t>::max();

struct BpeOptions {
  std::optional<std::int32_t> unknown;
  bool fuse_unknown = false;
  bool byte_fallback = false;
  bool ignore_merges = false; // a piece that is a token is not split first
};

class BpeModel final : public TokenModel {
 public:
  BpeModel(Vocabulary vocabulary, MergeTable merges, BpeOptions options)
      : vocabulary_(std::move(vocabulary)), merges_(std::move(merges)), options_(options) {
    for (std::uint32_t c = 0; c < kCommonCharacters; ++c) {
      std::string text;
      unicode::append_code_point(text, c);
      common_ids_.push_back(vocabulary_.id_of(text).value_or(-1));
    }
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const override {
    if (options_.ignore_merges) {
      if (const auto id = vocabulary_.id_of(piece)) {
        ids.push_back(*id);
        return;
      }
    }
    const std::size_t begin = ids.size();
    add_characters(piece, ids);
    // Searching a short word again costs less than keeping a queue.
    constexpr std::size_t kShort = 48;
    if (ids.size() - begin <= kShort) {
      merge_short<kShort>(ids, begin);
    } else {
      merge_long(ids, begin);
    }
  }

 private:
  static constexpr std::uint32_t kCommonCharacters = 0x800;

  // The ids of a piece's characters. Unknown characters wait until the next known one, byte tokens
  // do not flush them: what tokenizers does.
  void add_characters(std::string_view piece, std::vector<std::int32_t>& ids) const {
    bool unknown_waits = false;
    for (std::size_t offset = 0; offset < piece.size();) {
      const std::size_t begin = offset;
      const std::uint32_t c = unicode::next_code_point(piece, offset);
      const std::string_view character = piece.substr(begin, offset - begin);
      const std::int32_t id =
          c < kCommonCharacters ? common_ids_[c] : vocabulary_.id_of(character).value_or(-1);
      if (id >= 0) {
        if (unknown_waits) {
          ids.push_back(*options_.unknown);
          unknown_waits = false;
        }
        ids.push_back(id);
        continue;
      }
      if (options_.byte_fallback && add_bytes(character, ids)) {
        continue;
      }
      if (options_.unknown) {
        if (unknown_waits && !options_.fuse_unknown) {
          ids.push_back(*options_.unknown);
        }
        unknown_waits = true;
      }
    }
    if (unknown_waits) {
      ids.push_back(*options_.unknown);
    }
  }

  bool add_bytes(std::string_view character, std::vector<std::int32_t>& ids) const {
    for (const char byte : character) {
      if (vocabulary_.byte_id(static_cast<unsigned char>(byte)) < 0) {
        return false;
      }
    }
    for (const char byte : character) {
      ids.push_back(vocabulary_.byte_id(static_cast<unsigned char>(byte)));
    }
    return true;
  }

  template <std::size_t Longest>
  void merge_short(std::vector<std::int32_t>& ids, std::size_t begin) const {
    std::int32_t* const symbols = ids.data() + begin;
    std::size_t count = ids.size() - begin;
    std::array<Merge, Longest> merges; // of each symbol with the next
    const auto look_up = [&](std::size_t i) {
      const Merge* merge = merges_.find(symbols[i], symbols[i + 1]);
      merges[i] = merge != nullptr ? *merge : Merge{kNoRank, 0};
    };
    for (std::size_t i = 0; i + 1 < count; ++i) {
      look_up(i);
    }
    while (count > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < count; ++i) {
        best = merges[i].rank < merges[best].rank ? i : best;
      }
      if (merges[best].rank == kNoRank) {
        break;
      }
      symbols[best] = merges[best].id;
      --count;
      for (std::size_t i = best + 1; i < count; ++i) {
        symbols[i] = symbols[i + 1];
      }
      for (std::size_t i = best + 1; i + 1 < count; ++i) {
        merges[i] = merges[i + 1];
      }
      if (best + 1 < count) {
        look_up(best);
      }
      if (best > 0) {
        look_up(best - 1);
      }
    }
    ids.resize(begin + count);
  }

  // The same with a queue of merges and a linked list of symbols, for pieces of any length.
  void merge_long(std::vector<std::int32_t>& ids, std::size_t begin) const {
    struct Symbol {
      std::int32_t id;
      std::ptrdiff_t previous;
      std::ptrdiff_t next;
    };
    struct Candidate {
      std::uint32_t rank;
      std::ptrdiff_t position;
      std::int32_t left;
      std::int32_t right;
      bool operator<(const Candidate& other) const { // the queue gives the greatest first
        return std::tie(other.rank, other.position) < std::tie(rank, position);
      }
    };
    const auto count = static_cast<std::ptrdiff_t>(ids.size() - begin);
    std::vector<Symbol> symbols;
    symbols.reserve(ids.size() - begin);
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      symbols.push_back(
          {ids[begin + static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
    }
    const auto at = [&symbols](std::ptrdiff_t i) -> Symbol& {
      return symbols[static_cast<std::size_t>(i)];
    };
    std::priority_queue<Candidate> queue;
    const auto consider = [&](std::ptrdiff_t position) {
      if (position < 0 || at(position).next < 0) {
        return;
      }
      const std::int32_t left = at(position).id;
      const std::int32_t right = at(at(position).next).id;
      if (const Merge* merge = merges_.find(left, right)) {
        queue.push({merge->rank, position, left, right});
      }
    };
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      consider(i);
    }
    while (!queue.empty()) {
      const Candidate top = queue.top();
      queue.pop();
      Symbol& left = at(top.position);
      if (left.id != top.left || left.next < 0 || at(left.next).id != top.right) {
        continue; // one of the two has become part of another token
      }
      Symbol& right = at(left.next);
      left.id = merges_.find(top.left, top.right)->id;
      left.next = right.next;
      right.id = -1;
      if (left.next >= 0) {
        at(left.next).previous = top.position;
      }
      consider(left.previous);
      consider(top.position);
    }
    ids.resize(begin);
    for (const Symbol& symbol : symbols) {
      if (symbol.id >= 0) {
        ids.push_back(symbol.id);
      }
    }
  }

  Vocabulary vocabulary_;
  MergeTable merges_;
  BpeOptions options_;
  std::vector<std::int32_t> common_ids_; // by code point
};

Vocabulary read_vocabulary(const JsonNode& node) {
  Vocabulary vocabulary;
  for (const auto& [text, value] : node.object().items()) {
    if (!value.is_number_unsigned() ||
        value.get<std::uint64_t>() > static_cast<std::uint64_t>(Vocabulary::kLargestId)) {
      node.fail(
          "gives " + in_quotes(text) + " an id that is no integer in [0, " +
          std::to_string(Vocabulary::kLargestId) + "]");
    }
    try {
      vocabulary.add(text, value.get<std::int32_t>());
    } catch (const Error& error) {
      node.fail(error.what());
    }
  }
  return vocabulary;
}

// A merge is ["a", "b"] or, in older files, "a b".
std::pair<std::string, std::string> read_merge(const JsonNode& node, const nlohmann::json& entry) {
  if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
    return {entry[0].get<std::string>(), entry[1].get<std::string>()};
  }
  if (entry.is_string()) {
    const auto& text = entry.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  }
  node.fail(
      "must hold pairs of tokens, not " +
      in_quotes(entry.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
}

MergeTable read_merges(const JsonNode& node, const Vocabulary& vocabulary) {
  std::vector<std::pair<MergeTable::Pair, Merge>> merges;
  std::uint32_t rank = 0;
  for (const nlohmann::json& entry : node.array()) {
    if (entry.is_string() && entry.get_ref<const std::string&>().starts_with("#version")) {
      continue;
    }
    const auto [left, right] = read_merge(node, entry);
    const auto id_of = [&](const std::string& text) {
      const auto id = vocabulary.id_of(text);
      if (!id) {
        node.fail("name " + in_quotes(text) + ", which the vocabulary has not");
      }
      return *id;
    };
    merges.push_back({{id_of(left), id_of(right)}, {rank++, id_of(left + right)}});
  }
  return MergeTable(merges);
}

// An option that must have its neutral value: null, "" or 0.
void refuse(const JsonNode& node, const std::string& key) {
  const auto value = node.object().find(key);
  if (value == node.object().end() || value->is_null() || *value == "" || *value == 0) {
    return;
  }
  throw Error(
      node.file() + ": model option '" + key + "' is not supported: " +
      in_quotes(value->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
}

} // namespace

std::unique_ptr<const TokenModel> make_bpe_model(const JsonNode& node) {
  refuse(node, "dropout");
  refuse(node, "continuing_subword_prefix");
  refuse(node, "end_of_word_suffix");
  Vocabulary vocabulary = read_vocabulary(node.at("vocab"));
  MergeTable merges = read_merges(node.at("merges"), vocabulary);
  BpeOptions options;
  options.fuse_unknown = node.boolean_or("fuse_unk", false);
  options.byte_fallback = node.boolean_or("byte_fallback", false);
  options.ignore_merges = node.boolean_or("ignore_merges", false);
  if (const auto unknown = node.find("unk_token")) {
    options.unknown = vocabulary.id_of(unknown->string());
    if (!options.unknown) {
      unknown->fail("is not in the vocabulary: " + in_quotes(unknown->string()));
    }
  }
  return std::make_unique<BpeModel>(std::move(vocabulary), std::move(merges), options);
}

} // namespace baton
