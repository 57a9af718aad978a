// SPDX-License-Identifier: Apache-2.0
#include "baton/data/packer.h"

#include <algorithm>
#include <limits>
#include <span>
#include <sstream>
#include <string>
#include <utility>

#include "baton/base/error.h"
#include "baton/base/random.h"

namespace baton {
namespace {

void check_positive(std::int64_t value, const char* what) {
  if (value <= 0) {
    throw Error(std::string(what) + " must be positive: " + std::to_string(value));
  }
}

} // namespace

Packer::Packer(std::shared_ptr<const Blend> blend, const PackerConfig& config)
    : blend_(std::move(blend)), config_(config) {
  check_positive(config.tokens_per_microbatch, "tokens per microbatch");
  check_positive(config.vocab_size, "vocabulary size");
}

LoaderState Packer::start() const {
  LoaderState state;
  state.seed = config_.shuffle_seed.value_or(0);
  for (std::size_t i = 0; i < blend_->size(); ++i) {
    SetState& set = state.sets.emplace_back();
    set.dataset_documents = blend_->dataset(i).num_documents();
    set.dataset_tokens = blend_->dataset(i).num_tokens();
    set.share = blend_->share(i);
  }
  return state;
}

DocumentOrder Packer::order(std::size_t set, std::int64_t epoch) const {
  const std::int64_t count = blend_->dataset(set).num_documents();
  if (!config_.shuffle_seed) {
    return DocumentOrder::sequential(count);
  }
  // Sets of one size must not be walked side by side: their documents may belong together.
  const std::uint64_t seed =
      set == 0 ? *config_.shuffle_seed
               : RandomKey(*config_.shuffle_seed).with("data set").with(set).value();
  return DocumentOrder::shuffled(count, seed, epoch);
}

bool Packer::exhausted(const SetState& set) const {
  return !config_.shuffle_seed && set.position == set.dataset_documents;
}

// The set of the document under way, or of the next one; nothing at the end of unshuffled data.
std::optional<std::size_t> Packer::next_set(const LoaderState& state) const {
  std::optional<std::size_t> chosen;
  double fewest = 0.0;
  for (std::size_t i = 0; i < state.sets.size(); ++i) {
    const SetState& set = state.sets[i];
    if (set.offset != 0) {
      return i;
    }
    const double handed_out = static_cast<double>(set.tokens) / set.share;
    if (!exhausted(set) && (!chosen || handed_out < fewest)) {
      chosen = i;
      fewest = handed_out;
    }
  }
  return chosen;
}

void Packer::advance(
    LoaderState& state,
    std::int64_t wanted,
    std::vector<PackedTokens::Piece>* pieces) const {
  while (wanted > 0) {
    const std::optional<std::size_t> next = next_set(state);
    if (!next) {
      return;
    }
    SetState& set = state.sets[*next];
    if (set.position == set.dataset_documents) {
      ++set.epoch;
      set.position = 0;
    }
    const std::int64_t document = order(*next, set.epoch).at(set.position);
    const std::int64_t left = blend_->dataset(*next).document_length(document) - set.offset;
    const std::int64_t taken = std::min(left, wanted);
    if (taken > 0 && pieces != nullptr) {
      pieces->push_back({.set = *next, .document = document, .first = set.offset, .length = taken});
    }
    wanted -= taken;
    set.tokens += taken;
    set.offset += taken;
    if (taken == left) {
      ++set.position;
      set.offset = 0;
    }
  }
}

void Packer::read(const PackedTokens::Piece& piece, PackedTokens& packed) const {
  const IndexedDataset& dataset = blend_->dataset(piece.set);
  const auto length = static_cast<std::size_t>(piece.length);
  const std::size_t begin = packed.tokens.size();
  const bool continues = piece.first + piece.length < dataset.document_length(piece.document);
  // Labels are the tokens one place further on, so the document is read once, with the token behind
  // the piece where there is one.
  packed.tokens.resize(begin + length + (continues ? 1 : 0));
  const auto read = std::span(packed.tokens).subspan(begin);
  dataset.read_tokens(piece.document, piece.first, config_.vocab_size, read);
  packed.labels.insert(packed.labels.end(), read.begin() + 1, read.end());
  if (!continues) {
    packed.labels.push_back(kNoLabel);
  }
  packed.tokens.resize(begin + length);
  if (blend_->has_mask()) {
    const std::size_t labels = length - (continues ? 0 : 1);
    packed.mask.resize(begin + length, 0.0F);
    dataset.read_mask(
        piece.document, piece.first + 1, std::span(packed.mask).subspan(begin, labels));
  }
}

PackedTokens Packer::pack(LoaderState& state) const {
  LoaderState moved = state;
  PackedTokens packed;
  packed.index = state.microbatch;
  const auto capacity =
      static_cast<std::size_t>(std::min(config_.tokens_per_microbatch, blend_->num_tokens()) + 1);
  packed.tokens.reserve(capacity);
  packed.labels.reserve(capacity);
  advance(moved, config_.tokens_per_microbatch, &packed.pieces);
  for (const PackedTokens::Piece& piece : packed.pieces) {
    read(piece, packed);
  }
  ++moved.microbatch;
  state = moved;
  return packed;
}

void Packer::skip(LoaderState& state, std::int64_t count) const {
  if (count < 0 ||
      count > std::numeric_limits<std::int64_t>::max() / config_.tokens_per_microbatch) {
    throw Error("cannot pass over " + std::to_string(count) + " microbatches");
  }
  advance(state, count * config_.tokens_per_microbatch, nullptr);
  state.microbatch += count;
}

void Packer::check(const LoaderState& state) const {
  const LoaderState own = start();
  const auto compare = [](auto saved, auto now, const std::string& what) {
    if (saved != now) {
      std::ostringstream message;
      message << "cannot continue in this data: " << what << " was " << saved << " and is " << now;
      throw Error(message.str());
    }
  };
  compare(state.seed, own.seed, "the seed");
  compare(state.sets.size(), own.sets.size(), "the number of data sets");
  bool cut = false; // whether a document is under way
  for (std::size_t i = 0; i < own.sets.size(); ++i) {
    const SetState& set = state.sets[i];
    const std::string of = " of " + blend_->dataset(i).paths().prefix;
    compare(set.dataset_documents, own.sets[i].dataset_documents, "the number of documents" + of);
    compare(set.dataset_tokens, own.sets[i].dataset_tokens, "the number of tokens" + of);
    compare(set.share, own.sets[i].share, "the share" + of);
    check_set(i, set);
    if (cut && set.offset != 0) {
      throw Error("loader state " + to_json(state) + " is inside two documents at once");
    }
    cut = cut || set.offset != 0;
  }
  if (state.microbatch < 0) {
    throw Error("loader state " + to_json(state) + " has no microbatch");
  }
}

void Packer::check_set(std::size_t set, const SetState& state) const {
  const IndexedDataset& dataset = blend_->dataset(set);
  const bool within = state.epoch >= 0 && state.tokens >= 0 && state.position >= 0 &&
                      state.position <= dataset.num_documents() && state.offset >= 0;
  const std::int64_t length =
      within && state.position < dataset.num_documents()
          ? dataset.document_length(order(set, state.epoch).at(state.position))
          : 0;
  if (!within || (state.offset != 0 && state.offset >= length)) {
    throw Error(
        dataset.paths().index + ": has no token " + std::to_string(state.offset) +
        " in a document at place " + std::to_string(state.position) + " of epoch " +
        std::to_string(state.epoch));
  }
}

} // namespace baton
