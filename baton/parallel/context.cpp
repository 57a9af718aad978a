// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/context.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>

#include "baton/base/error.h"
#include "baton/base/upload.h"

namespace baton::parallel {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor index_tensor(const std::vector<std::int64_t>& values) {
  return at::tensor(values, at::kLong);
}

/// Of SegmentKeys and UnmaskedPairs.
template <class Keys>
Keys on_device(Keys keys, at::Device device) {
  keys.starts_q_B1 = upload(keys.starts_q_B1, device);
  keys.starts_k_B1 = upload(keys.starts_k_B1, device);
  return keys;
}

/// A segment's states and decays as one row, so that each message is one.
at::Tensor pack(const at::Tensor& states_HX, const at::Tensor& log_decay_H) {
  return at::cat({states_HX.flatten(1), log_decay_H.unsqueeze(1)}, 1).unsqueeze(0);
}

/// What two runs of segments do together, one behind the other; both packed. Undefined is a run of
/// none.
at::Tensor join(const at::Tensor& earlier_BHX, const at::Tensor& later_BHX) {
  if (!earlier_BHX.defined() || !later_BHX.defined()) {
    return earlier_BHX.defined() ? earlier_BHX : later_BHX;
  }
  const std::int64_t width = earlier_BHX.size(2) - 1;
  const at::Tensor log_decay = later_BHX.narrow(2, width, 1);
  return at::cat(
      {later_BHX.narrow(2, 0, width) + log_decay.exp() * earlier_BHX.narrow(2, 0, width),
       log_decay + earlier_BHX.narrow(2, width, 1)},
      2);
}

/// Sends `up` to the rank `distance` above and `down` to the one below, and returns what came from
/// below and from above; undefined where there is no such rank.
std::pair<at::Tensor, at::Tensor> swap_with_neighbours(
    const Group& group,
    const at::Tensor& up,
    const at::Tensor& down,
    int distance) {
  const int below = group.rank() - distance;
  const int above = group.rank() + distance;
  std::vector<std::int64_t> counts_out(static_cast<std::size_t>(group.size()), 0);
  std::vector<std::int64_t> counts_in = counts_out;
  std::vector<at::Tensor> rows{up.narrow(0, 0, 0)};
  if (below >= 0) {
    counts_out[static_cast<std::size_t>(below)] = down.size(0);
    counts_in[static_cast<std::size_t>(below)] = up.size(0);
    rows.push_back(down);
  }
  if (above < group.size()) {
    counts_out[static_cast<std::size_t>(above)] = up.size(0);
    counts_in[static_cast<std::size_t>(above)] = down.size(0);
    rows.push_back(up);
  }
  const at::Tensor received = group.all_to_all(at::cat(rows), counts_out, counts_in);
  return {
      below >= 0 ? received.narrow(0, 0, up.size(0)) : at::Tensor(),
      above < group.size() ? received.narrow(0, received.size(0) - down.size(0), down.size(0))
                           : at::Tensor()};
}

/// What the segments of other ranks do, run by run, packed [1, H, X + 1]; undefined where there are
/// no such ranks. A rank's first segment is in the first half of the stream, its second in the
/// second half.
struct Around {
  at::Tensor first_below;  ///< up to this rank's first segment
  at::Tensor first_above;  ///< from there to the middle of the stream
  at::Tensor second_above; ///< from the middle to this rank's second segment
};

/// In as many rounds as it takes to double one rank to all of them.
Around join_around(const Group& group, const at::Tensor& first, const at::Tensor& second) {
  Around around;
  // What this rank and those `distance` - 1 nearest to it do: below for `up`, above for the others.
  at::Tensor up = first;
  at::Tensor down_first = first;
  at::Tensor down_second = second;
  for (int distance = 1; distance < group.size(); distance *= 2) {
    const auto [from_below, from_above] =
        swap_with_neighbours(group, up, at::cat({down_first, down_second}), distance);
    if (from_below.defined()) {
      around.first_below = join(from_below, around.first_below);
      up = join(from_below, up);
    }
    if (from_above.defined()) {
      const at::Tensor above_first = from_above.narrow(0, 0, 1);
      const at::Tensor above_second = from_above.narrow(0, 1, 1);
      around.first_above = join(around.first_above, above_first);
      around.second_above = join(above_second, around.second_above);
      down_first = join(down_first, above_first);
      down_second = join(above_second, down_second);
    }
  }
  return around;
}

} // namespace

ContextRules context_rules(const ParallelConfig& config) {
  return {
      config.context == "baton" ? ContextStrategy::kBaton : ContextStrategy::kAllToAll,
      config.attention == "gather" ? KeyExchange::kGather : KeyExchange::kRing};
}

Context::Context(
    const SequenceLayout& stream,
    const Group& group,
    const ContextRules& rules,
    at::Device device)
    : rules_(rules),
      group_(group),
      plan_(stream, group.size()),
      part_(plan_.part_of(group.rank())),
      stream_(stream.to(device)),
      own_tokens_(plan_.cut().tokens_of(group.rank())),
      device_(device) {
  part_.layout = part_.layout.to(device);
  for (std::size_t i = 0; i < 2; ++i) {
    keys_[i] = on_device(plan_.keys_of(plan_.cut().of(group.rank())[i]), device);
  }
  std::vector<at::Tensor> tokens;
  for (int rank = 0; rank < group.size(); ++rank) {
    pairs_.push_back(on_device(plan_.pairs_of(group.rank(), rank), device));
    tokens_of_ranks_.push_back(plan_.cut().tokens_of(rank));
    for (const int segment : plan_.cut().of(rank)) {
      const std::int64_t begin = plan_.cut().bounds[static_cast<std::size_t>(segment)];
      tokens.push_back(at::arange(begin, begin + plan_.cut().length(segment), at::kLong));
    }
  }
  const at::Tensor token_of_place = at::cat(tokens);
  const at::Tensor place_of_token = at::empty_like(token_of_place);
  place_of_token.index_put_({token_of_place}, at::arange(token_of_place.size(0), at::kLong));
  token_of_place_ = upload(token_of_place, device);
  place_of_token_ = upload(place_of_token, device);
}

at::Tensor Context::own_rows(const at::Tensor& of_stream) const {
  return at::cat(
      {of_stream.narrow(0, part_.begins[0], part_.lengths[0]),
       of_stream.narrow(0, part_.begins[1], part_.lengths[1])});
}

at::Tensor Context::pass_states(const SegmentStates& segments, Direction direction) const {
  // Backwards, segment 2 cp - 1 - r comes before segment r of every rank.
  const std::int64_t early = direction == Direction::kForward ? 0 : 1;
  const auto packed = [&](std::int64_t i) {
    return pack(segments.states_SHX[i], segments.log_decay_SH[i]);
  };
  const at::Tensor first = packed(early);
  const at::Tensor second = packed(1 - early);
  const Around around = join_around(group_, first, second);
  const at::Tensor half = join(join(around.first_below, first), around.first_above);
  const auto states_of = [&](const at::Tensor& joined) {
    return joined.narrow(2, 0, joined.size(2) - 1).reshape(segments.states_SHX[0].sizes());
  };
  const at::Tensor entering_first = around.first_below.defined()
                                        ? states_of(around.first_below)
                                        : at::zeros_like(segments.states_SHX[0]);
  const at::Tensor entering_second = states_of(join(half, around.second_above));
  return early == 0 ? at::stack({entering_first, entering_second})
                    : at::stack({entering_second, entering_first});
}

at::Tensor Context::gather_rows(const at::Tensor& rows) const {
  if (group_.alone()) {
    return rows;
  }
  const std::int64_t most = *std::max_element(tokens_of_ranks_.begin(), tokens_of_ranks_.end());
  const std::int64_t least = *std::min_element(tokens_of_ranks_.begin(), tokens_of_ranks_.end());
  std::vector<std::int64_t> shape = rows.sizes().vec();
  if (least == most) {
    shape[0] = most * group_.size();
    return group_.all_gather(rows.contiguous()).view(shape).index_select(0, place_of_token_);
  }
  std::vector<at::Tensor> copies(static_cast<std::size_t>(group_.size()), rows);
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(group_.size()), rows.size(0));
  return group_.all_to_all(at::cat(copies), counts, tokens_of_ranks_)
      .index_select(0, place_of_token_);
}

at::Tensor Context::scatter_rows(const at::Tensor& of_stream) const {
  if (group_.alone()) {
    return of_stream;
  }
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(group_.size()), own_tokens_);
  const at::Tensor received =
      group_.all_to_all(of_stream.index_select(0, token_of_place_), tokens_of_ranks_, counts);
  std::vector<std::int64_t> shape = of_stream.sizes().vec();
  shape[0] = own_tokens_;
  shape.insert(shape.begin(), group_.size());
  return received.view(shape)
      .sum(0, false, at::toOpMathType(of_stream.scalar_type()))
      .to(of_stream.scalar_type());
}

int Context::ring_holder(int steps) const {
  return (group_.rank() - steps + group_.size()) % group_.size();
}

Pending Context::start_ring(const at::Tensor& rows, int holder, at::Tensor& received) const {
  const int ranks = group_.size();
  const int before = (holder - 1 + ranks) % ranks;
  std::vector<std::int64_t> shape = rows.sizes().vec();
  shape[0] = tokens_of_ranks_[static_cast<std::size_t>(before)];
  received = at::empty(shape, rows.options());
  std::vector<std::int64_t> counts_out(static_cast<std::size_t>(ranks), 0);
  std::vector<std::int64_t> counts_in(static_cast<std::size_t>(ranks), 0);
  counts_out[static_cast<std::size_t>((group_.rank() + 1) % ranks)] = rows.size(0);
  counts_in[static_cast<std::size_t>((group_.rank() - 1 + ranks) % ranks)] = shape[0];
  return group_.start_all_to_all(rows, received, counts_out, counts_in);
}

at::Tensor Context::move_to_columns(const at::Tensor& rows) const {
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(group_.size()), own_tokens_);
  return group_
      .all_to_all(rows.transpose(0, 1).contiguous().flatten(0, 1), counts, tokens_of_ranks_)
      .index_select(0, place_of_token_);
}

at::Tensor Context::move_to_rows(const at::Tensor& columns) const {
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(group_.size()), own_tokens_);
  return group_.all_to_all(columns.index_select(0, token_of_place_), tokens_of_ranks_, counts)
      .unflatten(0, {group_.size(), own_tokens_})
      .transpose(0, 1);
}

c10::IValue Context::keep() const {
  return c10::IValue::make_capsule(
      c10::intrusive_ptr<Context>::reclaim_copy(const_cast<Context*>(this)));
}

const Context& Context::kept(const c10::IValue& value) {
  return static_cast<const Context&>(*value.toCapsule());
}

std::pair<std::int64_t, std::int64_t> Context::own_groups(std::int64_t groups) const {
  const std::int64_t ranks = group_.size();
  return groups >= ranks ? std::pair(group_.rank() * (groups / ranks), groups / ranks)
                         : std::pair(group_.rank() / (ranks / groups), std::int64_t{1});
}

at::Tensor Context::share_groups(const at::Tensor& rows_TGN) const {
  const std::int64_t ranks = group_.size();
  const std::int64_t groups = rows_TGN.size(1);
  const at::Tensor shared =
      groups >= ranks ? rows_TGN : rows_TGN.repeat_interleave(ranks / groups, 1);
  return shared.flatten(1).unflatten(1, {ranks, -1});
}

struct Context::MoveRows : torch::autograd::Function<Context::MoveRows> {
  static at::Tensor forward(
      AutogradContext* saved,
      const at::Tensor& values,
      const Context* context,
      bool to_columns) {
    saved->saved_data["context"] = context->keep();
    saved->saved_data["to_columns"] = to_columns;
    return to_columns ? context->move_to_columns(values) : context->move_to_rows(values);
  }

  static variable_list backward(AutogradContext* saved, variable_list gradients) {
    const Context& context = Context::kept(saved->saved_data["context"]);
    return {
        saved->saved_data["to_columns"].toBool() ? context.move_to_rows(gradients[0])
                                                 : context.move_to_columns(gradients[0]),
        at::Tensor(),
        at::Tensor()};
  }
};

at::Tensor Context::to_columns(const at::Tensor& rows) const {
  return MoveRows::apply(rows, this, true);
}

at::Tensor Context::to_rows(const at::Tensor& columns) const {
  return MoveRows::apply(columns, this, false);
}

Context::Tails Context::make_tails(std::int64_t width) const {
  const ZigzagCut& cut = plan_.cut();
  const std::int64_t rows = width - 1;
  Tails tails;
  std::vector<std::int64_t> places;
  for (int rank = 0; rank < group_.size(); ++rank) {
    const std::array<std::vector<std::int64_t>, 2> wanted = plan_.tails_of(rank, width);
    for (std::size_t i = 0; i < 2; ++i) {
      std::vector<std::int64_t> own_rows;
      std::vector<std::int64_t> own_places;
      for (std::size_t j = 0; j < wanted[i].size(); ++j) {
        const std::int64_t token = wanted[i][j];
        const int segment = token < 0 ? -1 : cut.segment_of(token);
        const int owner = token < 0 ? -1 : cut.owner(segment);
        if (owner == group_.rank()) {
          const std::int64_t half = segment == cut.of(owner)[0] ? 0 : 1;
          own_rows.push_back(
              token - part_.begins[static_cast<std::size_t>(half)] + half * part_.lengths[0]);
          own_places.push_back(static_cast<std::int64_t>(j));
        }
        if (rank == group_.rank()) {
          const std::int64_t half = token >= 0 && segment == cut.of(owner)[0] ? 0 : 1;
          places.push_back(
              token < 0 ? 2 * group_.size() * rows
                        : (2 * owner + half) * rows + rows -
                              (cut.bounds[static_cast<std::size_t>(segment) + 1] - token));
        }
      }
      if (!own_rows.empty()) {
        tails.uses.push_back(
            {2 * rank + static_cast<std::int64_t>(i),
             upload(index_tensor(own_rows), device_),
             upload(index_tensor(own_places), device_)});
      }
    }
  }
  tails.places = upload(index_tensor(places), device_);
  tails.heads = part_.heads(width);
  tails.heads.starts_B1 = upload(tails.heads.starts_B1, device_);
  return tails;
}

const Context::Tails& Context::tails(std::int64_t width) const {
  const auto found = tails_.find(width);
  return found != tails_.end() ? found->second
                               : tails_.emplace(width, make_tails(width)).first->second;
}

const SegmentHeads& Context::heads(std::int64_t width) const {
  return tails(width).heads;
}

Pending Context::start_tails(const at::Tensor& x_TC, std::int64_t width, at::Tensor& gathered)
    const {
  const std::int64_t rows = width - 1;
  std::vector<at::Tensor> own;
  for (std::size_t i = 0; i < 2; ++i) {
    const std::int64_t length = std::min(rows, part_.lengths[i]);
    const std::int64_t end = (i == 0 ? 0 : part_.lengths[0]) + part_.lengths[i];
    own.push_back(x_TC.new_zeros({rows - length, x_TC.size(1)}));
    own.push_back(x_TC.narrow(0, end - length, length));
  }
  gathered = x_TC.new_empty({group_.size(), 2 * rows, x_TC.size(1)});
  return group_.start_all_gather(at::cat(own), gathered);
}

at::Tensor Context::tails_from(const at::Tensor& gathered) const {
  const std::int64_t rows = gathered.size(1) / 2;
  const std::int64_t channels = gathered.size(2);
  return at::cat({gathered.flatten(0, 1), gathered.new_zeros({1, channels})})
      .index_select(0, tails(rows + 1).places)
      .view({2, rows, channels})
      .transpose(1, 2)
      .contiguous();
}

Pending Context::start_tail_gradients(const at::Tensor& gradient_SCK, at::Tensor& gathered) const {
  std::vector<std::int64_t> shape = gradient_SCK.sizes().vec();
  shape.insert(shape.begin(), group_.size());
  gathered = gradient_SCK.new_empty(shape);
  return group_.start_all_gather(gradient_SCK.contiguous(), gathered);
}

void Context::add_tail_gradients_(const at::Tensor& gathered, const at::Tensor& dx_TC) const {
  const at::Tensor all = gathered.flatten(0, 1);
  for (const Tails::Use& use : tails(gathered.size(3) + 1).uses) {
    const at::Tensor given = all[use.segment].transpose(0, 1).index_select(0, use.places);
    // A segment needs a row once, but segments that are shorter than K - 1 share rows.
    dx_TC.index_copy_(0, use.rows, dx_TC.index_select(0, use.rows) + given);
  }
}

} // namespace baton::parallel
