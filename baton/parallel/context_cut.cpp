// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/context_cut.h"

#include <algorithm>

#include <ATen/ATen.h>

namespace baton::parallel {
namespace {

at::Tensor int32_tensor(const std::vector<std::int32_t>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kInt));
}

} // namespace

ZigzagCut::ZigzagCut(std::int64_t num_tokens, int ranks) : ranks(ranks) {
  for (int segment = 0; segment <= segments(); ++segment) {
    bounds.push_back(num_tokens * segment / segments());
  }
}

int ZigzagCut::segment_of(std::int64_t token) const {
  return static_cast<int>(std::upper_bound(bounds.begin(), bounds.end(), token) - bounds.begin()) -
         1;
}

ContextPlan::ContextPlan(const SequenceLayout& stream, int ranks) : cut_(stream.num_tokens, ranks) {
  std::int64_t begin = 0;
  for (const SequenceLayout::Sequence& sequence : stream.sequences) {
    if (sequence.length > 0) {
      documents_.push_back({begin, begin + sequence.length, sequence.first_position});
    }
    begin += sequence.length;
  }
}

const Document* ContextPlan::document_at(std::int64_t token) const {
  const auto above = std::upper_bound(
      documents_.begin(), documents_.end(), token, [](std::int64_t at, const Document& document) {
        return at < document.begin;
      });
  return above == documents_.begin() ? nullptr : &*std::prev(above);
}

ContextPart ContextPlan::part_of(int rank) const {
  ContextPart part;
  std::vector<SequenceLayout::Sequence> sequences;
  for (std::size_t i = 0; i < 2; ++i) {
    const int segment = cut_.of(rank)[i];
    const std::int64_t begin = cut_.bounds[static_cast<std::size_t>(segment)];
    const std::int64_t end = begin + cut_.length(segment);
    part.begins[i] = begin;
    part.lengths[i] = end - begin;
    part.first_sequence[i] = static_cast<std::int64_t>(sequences.size());
    if (begin == end) {
      // Whatever enters leaves; whether anything needs it is for the next segment to say.
      part.continues[i] = part.passes[i] = true;
      sequences.push_back({.initial_slot = static_cast<std::int32_t>(i)});
    }
    for (std::int64_t at = begin; at < end;) {
      const Document& document = *document_at(at);
      const std::int64_t stop = std::min(end, document.end);
      const bool goes_on = document.begin < at;
      if (at == begin) {
        part.continues[i] = goes_on;
        part.passes[i] = goes_on && stop == end;
      }
      sequences.push_back(
          {.length = stop - at,
           .first_position = document.first_position + at - document.begin,
           .initial_slot = goes_on ? static_cast<std::int32_t>(i) : -1});
      at = stop;
    }
    part.last_sequence[i] = static_cast<std::int64_t>(sequences.size()) - 1;
  }
  part.layout = make_layout(std::move(sequences));
  return part;
}

SegmentKeys ContextPlan::keys_of(int segment) const {
  const std::int64_t begin = cut_.bounds[static_cast<std::size_t>(segment)];
  const std::int64_t end = begin + cut_.length(segment);
  SegmentKeys keys;
  keys.first_key = begin == end ? begin : document_at(begin)->begin;
  keys.num_keys = end - keys.first_key;
  std::vector<std::int32_t> starts_q{0};
  std::vector<std::int32_t> starts_k{0};
  for (std::int64_t at = begin; at < end;) {
    const Document& document = *document_at(at);
    const std::int64_t stop = std::min(end, document.end);
    const std::int64_t before = at - document.begin;
    const std::int64_t length = stop - at;
    keys.longest_q = std::max(keys.longest_q, length);
    keys.longest_k = std::max(keys.longest_k, before + length);
    keys.pairs += length * before + length * (length + 1) / 2;
    starts_q.push_back(static_cast<std::int32_t>(stop - begin));
    starts_k.push_back(static_cast<std::int32_t>(stop - keys.first_key));
    at = stop;
  }
  keys.starts_q_B1 = int32_tensor(starts_q);
  keys.starts_k_B1 = int32_tensor(starts_k);
  return keys;
}

UnmaskedPairs ContextPlan::pairs_of(int rank, int keys_of_rank) const {
  UnmaskedPairs pairs;
  std::vector<std::int32_t> starts_q{0};
  std::vector<std::int32_t> starts_k{0};
  for (std::size_t i = 0; i < 2; ++i) {
    const int segment = cut_.of(rank)[i];
    const std::int64_t begin = cut_.bounds[static_cast<std::size_t>(segment)];
    if (cut_.length(segment) == 0) {
      continue;
    }
    const Document& document = *document_at(begin);
    std::int64_t num_keys = 0;
    for (std::size_t j = 0; j < 2; ++j) {
      const int other = cut_.of(keys_of_rank)[j];
      const std::int64_t other_begin = cut_.bounds[static_cast<std::size_t>(other)];
      const std::int64_t first = std::max(document.begin, other_begin);
      const std::int64_t count = other_begin + cut_.length(other) - first;
      if (other < segment && count > 0) {
        const std::int64_t before = j == 0 ? 0 : cut_.length(cut_.of(keys_of_rank)[0]);
        pairs.keys.push_back({before + first - other_begin, count});
        num_keys += count;
      }
    }
    if (num_keys > 0) {
      const std::int64_t count = std::min(document.end, begin + cut_.length(segment)) - begin;
      pairs.queries.push_back({i == 0 ? 0 : cut_.length(cut_.of(rank)[0]), count});
      starts_q.push_back(static_cast<std::int32_t>(starts_q.back() + count));
      starts_k.push_back(static_cast<std::int32_t>(starts_k.back() + num_keys));
      pairs.longest_q = std::max(pairs.longest_q, count);
      pairs.longest_k = std::max(pairs.longest_k, num_keys);
    }
  }
  pairs.starts_q_B1 = int32_tensor(starts_q);
  pairs.starts_k_B1 = int32_tensor(starts_k);
  return pairs;
}

std::array<std::vector<std::int64_t>, 2> ContextPlan::tails_of(int rank, std::int64_t width) const {
  std::array<std::vector<std::int64_t>, 2> tails;
  for (std::size_t i = 0; i < 2; ++i) {
    const int segment = cut_.of(rank)[i];
    const std::int64_t begin = cut_.bounds[static_cast<std::size_t>(segment)];
    const Document* document = cut_.length(segment) == 0 ? nullptr : document_at(begin);
    for (std::int64_t token = begin - (width - 1); token < begin; ++token) {
      tails[i].push_back(document != nullptr && token >= document->begin ? token : -1);
    }
  }
  return tails;
}

SegmentHeads ContextPart::heads(std::int64_t width) const {
  SegmentHeads heads;
  std::vector<std::int32_t> starts{0};
  for (std::size_t i = 0; i < 2; ++i) {
    const std::int64_t goes_on =
        continues[i] ? layout.sequences[static_cast<std::size_t>(first_sequence[i])].length : 0;
    heads.rows[i] = {.first = i == 0 ? 0 : lengths[0], .count = std::min(width - 1, goes_on)};
    starts.push_back(starts.back() + static_cast<std::int32_t>(heads.rows[i].count));
  }
  heads.starts_B1 = at::tensor(starts, at::kInt);
  return heads;
}

double ContextPlan::attention_imbalance() const {
  double most = 0.0;
  double all = 0.0;
  for (int rank = 0; rank < cut_.ranks; ++rank) {
    const auto [first, second] = cut_.of(rank);
    const auto pairs = static_cast<double>(keys_of(first).pairs + keys_of(second).pairs);
    most = std::max(most, pairs);
    all += pairs;
  }
  return all == 0.0 ? 1.0 : most * cut_.ranks / all;
}

} // namespace baton::parallel
