// SPDX-License-Identifier: Apache-2.0
#include "baton/data/packer.h"

#include <algorithm>
#include <limits>
#include <span>
#include <string>

#include "baton/base/error.h"

namespace baton {
namespace {

void check_positive(std::int64_t value, const char* what) {
  if (value <= 0) {
    throw Error(std::string(what) + " must be positive: " + std::to_string(value));
  }
}

} // namespace

Packer::Packer(const IndexedDataset& dataset, const PackerConfig& config)
    : dataset_(&dataset), config_(config) {
  check_positive(config.tokens_per_microbatch, "tokens per microbatch");
  check_positive(config.vocab_size, "vocabulary size");
  if (dataset.num_tokens() == 0) {
    throw Error(dataset.paths().index + ": holds no tokens");
  }
}

DocumentOrder Packer::order(std::int64_t epoch) const {
  return config_.shuffle_seed
             ? DocumentOrder::shuffled(dataset_->num_documents(), *config_.shuffle_seed, epoch)
             : DocumentOrder::sequential(dataset_->num_documents());
}

void Packer::advance(
    LoaderState& state,
    std::int64_t wanted,
    std::vector<PackedTokens::Piece>* pieces) const {
  DocumentOrder documents = order(state.epoch);
  const bool endless = config_.shuffle_seed.has_value();
  while (wanted > 0 && (endless || state.epoch == 0)) {
    if (state.position == documents.count()) {
      ++state.epoch;
      state.position = 0;
      documents = order(state.epoch);
      continue;
    }
    const std::int64_t document = documents.at(state.position);
    const std::int64_t left = dataset_->document_length(document) - state.offset;
    const std::int64_t taken = std::min(left, wanted);
    if (taken > 0 && pieces != nullptr) {
      pieces->push_back({.document = document, .first = state.offset, .length = taken});
    }
    wanted -= taken;
    state.tokens += taken;
    state.offset += taken;
    if (taken == left) {
      ++state.position;
      state.offset = 0;
    }
  }
}

void Packer::read(const PackedTokens::Piece& piece, PackedTokens& packed) const {
  const auto length = static_cast<std::size_t>(piece.length);
  const std::size_t begin = packed.tokens.size();
  const bool continues = piece.first + piece.length < dataset_->document_length(piece.document);
  // Labels are the tokens one place further on, so the document is read once, with the token behind
  // the piece where there is one.
  packed.tokens.resize(begin + length + (continues ? 1 : 0));
  const auto read = std::span(packed.tokens).subspan(begin);
  dataset_->read_tokens(piece.document, piece.first, config_.vocab_size, read);
  packed.labels.insert(packed.labels.end(), read.begin() + 1, read.end());
  if (!continues) {
    packed.labels.push_back(kNoLabel);
  }
  packed.tokens.resize(begin + length);
  if (dataset_->has_mask()) {
    const std::size_t labels = length - (continues ? 0 : 1);
    packed.mask.resize(begin + length, 0.0F);
    dataset_->read_mask(
        piece.document, piece.first + 1, std::span(packed.mask).subspan(begin, labels));
  }
}

PackedTokens Packer::pack(LoaderState& state) const {
  LoaderState moved = state;
  PackedTokens packed;
  packed.index = state.microbatch;
  const auto capacity =
      static_cast<std::size_t>(std::min(config_.tokens_per_microbatch, dataset_->num_tokens()) + 1);
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
  const bool within = state.microbatch >= 0 && state.epoch >= 0 && state.tokens >= 0 &&
                      state.position >= 0 && state.position <= dataset_->num_documents() &&
                      state.offset >= 0;
  const std::int64_t length = within && state.position < dataset_->num_documents()
                                  ? dataset_->document_length(order(state.epoch).at(state.position))
                                  : 0;
  if (!within || (state.offset != 0 && state.offset >= length)) {
    throw Error(dataset_->paths().index + ": has no place for loader state " + to_json(state));
  }
}

} // namespace baton
