// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <utility>

#include "baton/base/error.h"
#include "baton/data/prefix_trie.h"
#include "baton/data/token_model.h"
#include "baton/data/unicode.h"

namespace baton {
namespace {

// What an unknown character costs beyond the least likely token.
constexpr double kUnknownPenalty = 10.0;

// A score as tokenizers reads it: the decimal digits as a double, then divided by a power of ten.
// Two roundings may end a bit beside the nearest double, and then sums tie or do not.
double twice_rounded(double value) {
  constexpr int kLargestPower = 308;
  std::array<char, 32> text{};
  const char* const end =
      std::to_chars(text.begin(), text.end(), std::abs(value), std::chars_format::scientific).ptr;
  std::uint64_t digits = 0;
  int exponent = 0;
  const char* at = text.data();
  for (bool fraction = false; at != end && *at != 'e'; ++at) {
    if (*at == '.') {
      fraction = true;
    } else {
      digits = digits * 10 + static_cast<std::uint64_t>(*at - '0');
      exponent -= fraction ? 1 : 0;
    }
  }
  exponent += std::atoi(std::string(at + 1, end).c_str());
  const auto power = [](int n) { return std::strtod(("1e" + std::to_string(n)).c_str(), nullptr); };
  auto result = static_cast<double>(digits);
  while (exponent < -kLargestPower) {
    result /= power(kLargestPower);
    exponent += kLargestPower;
  }
  result = exponent < 0 ? result / power(-exponent) : result * power(exponent);
  return value < 0 ? -result : result;
}

struct UnigramOptions {
  std::int32_t unknown = 0;
  bool byte_fallback = false;
};

class UnigramModel final : public TokenModel {
 public:
  UnigramModel(Vocabulary vocabulary, std::vector<double> scores, UnigramOptions options)
      : vocabulary_(std::move(vocabulary)), scores_(std::move(scores)), options_(options) {
    std::vector<std::pair<std::string, std::int32_t>> keys;
    for (std::int32_t id = 0; id < vocabulary_.size(); ++id) {
      if (!vocabulary_.text_of(id)->empty()) {
        keys.emplace_back(*vocabulary_.text_of(id), id);
      }
    }
    trie_ = PrefixTrie(std::move(keys));
    unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty;
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const override {
    const std::vector<Best> best = search(piece);
    // From the end to the beginning, neighbouring unknown characters as one.
    std::vector<std::pair<std::size_t, std::size_t>> parts;
    bool unknown_before = false;
    for (std::size_t end = piece.size(); end > 0; end = best[end].begin) {
      const bool unknown = best[end].id == options_.unknown;
      if (unknown && unknown_before) {
        parts.back().first = best[end].begin;
      } else {
        parts.emplace_back(best[end].begin, end);
      }
      unknown_before = unknown;
    }
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
      add_part(piece.substr(part->first, part->second - part->first), ids);
    }
  }

 private:
  // The best way to an offset: the token that ends there.
  struct Best {
    double score = 0.0;
    std::size_t begin = kNowhere;
    std::int32_t id = 0;
  };
  static constexpr std::size_t kNowhere = std::numeric_limits<std::size_t>::max();

  std::vector<Best> search(std::string_view piece) const {
    std::vector<Best> best(piece.size() + 1);
    for (std::size_t begin = 0; begin < piece.size();) {
      const double score_here = best[begin].score;
      const std::size_t character = unicode::character_size(piece[begin]);
      bool has_character = false;
      const auto offer = [&](std::size_t end, double score, std::int32_t id) {
        Best& target = best[end];
        if (target.begin == kNowhere || score > target.score) {
          target = {score, begin, id};
        }
      };
      trie_.find_prefixes(piece.substr(begin), [&](std::size_t length, std::int32_t id) {
        offer(begin + length, scores_[static_cast<std::size_t>(id)] + score_here, id);
        has_character = has_character || length == character;
      });
      if (!has_character) {
        offer(begin + character, unknown_score_ + score_here, options_.unknown);
      }
      begin += character;
    }
    return best;
  }

  void add_part(std::string_view part, std::vector<std::int32_t>& ids) const {
    if (const auto id = vocabulary_.id_of(part)) {
      ids.push_back(*id);
      return;
    }
    const bool all_bytes =
        options_.byte_fallback && std::all_of(part.begin(), part.end(), [this](char byte) {
          return vocabulary_.byte_id(static_cast<unsigned char>(byte)) >= 0;
        });
    if (!all_bytes) {
      ids.push_back(options_.unknown);
      return;
    }
    for (const char byte : part) {
      ids.push_back(vocabulary_.byte_id(static_cast<unsigned char>(byte)));
    }
  }

  Vocabulary vocabulary_;
  std::vector<double> scores_; // by id
  UnigramOptions options_;
  PrefixTrie trie_;
  double unknown_score_ = 0.0;
};

} // namespace

std::unique_ptr<const TokenModel> make_unigram_model(const JsonNode& node) {
  Vocabulary vocabulary;
  std::vector<double> scores;
  const JsonNode entries = node.at("vocab");
  for (const nlohmann::json& entry : entries.array()) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      entries.fail(
          "must hold pairs of a token and its score, not " +
          in_quotes(entry.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
    }
    try {
      vocabulary.add(entry[0].get<std::string>(), static_cast<std::int32_t>(scores.size()));
    } catch (const Error& error) {
      entries.fail(error.what());
    }
    scores.push_back(twice_rounded(entry[1].get<double>()));
  }
  const auto unknown = node.find("unk_id");
  if (!unknown || scores.empty()) {
    throw Error(node.file() + ": model: a Unigram model without unk_id is not supported");
  }
  UnigramOptions options;
  options.unknown =
      static_cast<std::int32_t>(unknown->integer(static_cast<std::int64_t>(scores.size()) - 1));
  options.byte_fallback = node.boolean_or("byte_fallback", false);
  return std::make_unique<UnigramModel>(std::move(vocabulary), std::move(scores), options);
}

} // namespace baton
